"""timm's optimizers for mmengine's configs."""

from collections.abc import Iterable
from typing import Any

import timm.optim
import torch
from torch import Tensor

from ..errors import InputError
from ..registry import OPTIMIZERS


@OPTIMIZERS.register_module()
def TimmOptimizer(params: Iterable[Tensor | dict], name: str, **kwargs: Any) -> torch.optim.Optimizer:  # noqa: N802
    """An optimizer of timm by its name there: `dict(type='bestiary.TimmOptimizer', name='lamb', lr=8e-3)`.

    Args:
        params: parameters or groups of them; mmengine gives them, `paramwise_cfg` applied.
        name: as `timm.optim.list_optimizers()` has it (lamb, lion, adan, nadamuon, ...).
        **kwargs: of that optimizer.

    Raises:
        InputError: timm has no such optimizer.
    """
    if name not in timm.optim.list_optimizers():
        known = ", ".join(timm.optim.list_optimizers())
        raise InputError(f"TimmOptimizer: timm {timm.__version__} has no optimizer {name!r}; there are {known}")
    return timm.optim.get_optimizer_class(name, bind_defaults=True)(params, **kwargs)
