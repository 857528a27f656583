"""timm's optimizers and clipping for mmengine's configs."""

import functools
from collections.abc import Callable, Iterable
from typing import Any
from unittest import mock

import timm.optim
import torch
from mmengine.optim import AmpOptimWrapper, OptimWrapper
from timm.optim import muon
from timm.utils.agc import adaptive_clip_grad
from torch import Tensor

from ..errors import InputError
from ..registry import OPTIM_WRAPPERS, OPTIMIZERS

NS_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@OPTIMIZERS.register_module()
def TimmOptimizer(  # noqa: N802
    params: Iterable[Tensor | dict], name: str, *, ns_dtype: str | None = None, **kwargs: Any
) -> torch.optim.Optimizer:
    """An optimizer of timm by its name there: `dict(type='bestiary.TimmOptimizer', name='lamb', lr=8e-3)`.

    Args:
        params: parameters or groups of them; mmengine gives them, `paramwise_cfg` applied.
        name: as `timm.optim.list_optimizers()` has it (lamb, lion, adan, nadamuon, ...).
        ns_dtype: of Muon and its variants: in what Newton-Schulz iterations make an update orthogonal. timm's is
            'bfloat16', which a CPU without instructions for it takes 10 to 30 times as long for as for 'float32'.
        **kwargs: of that optimizer.

    Raises:
        InputError: timm has no such optimizer, or the one named has no Newton-Schulz iterations, or not in `ns_dtype`.
    """
    if name not in timm.optim.list_optimizers():
        known = ", ".join(timm.optim.list_optimizers())
        raise InputError(f"TimmOptimizer: timm {timm.__version__} has no optimizer {name!r}; there are {known}")
    make = timm.optim.get_optimizer_class(name, bind_defaults=True)
    if ns_dtype is None:
        return make(params, **kwargs)
    kind, defaults = (make.func, make.keywords) if isinstance(make, functools.partial) else (make, {})
    if not issubclass(kind, muon.Muon):
        raise InputError(f"TimmOptimizer: ns_dtype={ns_dtype!r} is for Muon and its variants; {name} has no such steps")
    if ns_dtype not in NS_DTYPES:
        raise InputError(f"TimmOptimizer: ns_dtype={ns_dtype!r} is none of {', '.join(NS_DTYPES)}")
    return MuonIn(NS_DTYPES[ns_dtype], params, **defaults, **kwargs)


class MuonIn(muon.Muon):
    """timm's Muon whose Newton-Schulz iterations are computed in a type of one's choice.

    Args:
        ns_dtype: that type.
        params, **kwargs: see timm's `Muon`.
    """

    def __init__(self, ns_dtype: torch.dtype, params: Iterable[Tensor | dict], **kwargs: Any) -> None:
        super().__init__(params, **kwargs)
        self.ns_dtype = ns_dtype

    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """As timm's, which leaves the type to a default of the function that it calls."""
        orthogonalize = functools.partial(muon.zeropower_via_newtonschulz, dtype=self.ns_dtype)
        with mock.patch.object(muon, "zeropower_via_newtonschulz", orthogonalize):
            return super().step(closure)


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
