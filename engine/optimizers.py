"""timm's optimizers and clipping for mmengine's configs."""

from collections.abc import Iterable
from typing import Any

import timm.optim
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor

from ..errors import InputError
from ..registry import OPTIM_WRAPPERS, OPTIMIZERS


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


def _clip_adaptively(wrapper: OptimWrapper, clip_factor: float, eps: float) -> None:
    """Put timm's clipping in the place of mmengine's, which knows a norm and a value."""
    wrapper.clip_func = lambda params, **settings: adaptive_clip_grad(params[:-2], **settings)
    wrapper.clip_grad_kwargs = dict(clip_factor=clip_factor, eps=eps)


@OPTIM_WRAPPERS.register_module()
class AdaptiveClipOptimWrapper(OptimWrapper):
    """mmengine's OptimWrapper with adaptive gradient clipping (arXiv:2102.06171): by the size of the weights changed.

    The last two parameters, a classifier's last layer, are left alone, as the paper and timm have it.

    Args:
        optimizer, accumulative_counts: see `OptimWrapper`.
        clip_factor: the largest norm of a unit's gradient, as a multiple of that of its weights.
        eps: the least norm of weights that counts.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        accumulative_counts: int = 1,
        clip_factor: float = 0.01,
        eps: float = 1e-3,
    ) -> None:
        super().__init__(optimizer, accumulative_counts, clip_grad=dict(type="norm", max_norm=1.0))
        _clip_adaptively(self, clip_factor, eps)


@OPTIM_WRAPPERS.register_module()
class AmpAdaptiveClipOptimWrapper(AmpOptimWrapper):
    """`AdaptiveClipOptimWrapper` in mixed precision; gradients are clipped without the loss scale.

    Args:
        optimizer, accumulative_counts, clip_factor, eps: see `AdaptiveClipOptimWrapper`.
        **kwargs: of mmengine's `AmpOptimWrapper`: `dtype`, `loss_scale`.
    """

    def __init__(
        self,
        optimizer: torch.optim.Optimizer,
        accumulative_counts: int = 1,
        clip_factor: float = 0.01,
        eps: float = 1e-3,
        **kwargs: Any,
    ) -> None:
        wrapper = dict(optimizer=optimizer, accumulative_counts=accumulative_counts)
        super().__init__(**wrapper, clip_grad=dict(type="norm", max_norm=1.0), **kwargs)
        _clip_adaptively(self, clip_factor, eps)
