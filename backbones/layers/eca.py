"""ECA-Net: Efficient Channel Attention for Deep Convolutional Neural Networks (Wang et al., arXiv:1910.03151)."""

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from ...registry import MODELS
from .linear import records


def eca_kernel_size(channels: int, gamma: float = 2.0, beta: float = 1.0) -> int:
    """The paper's rule: log2(C) / gamma + beta / gamma, cut to an integer, made odd upwards, 3 at least."""
    size = int(abs(math.log2(channels) + beta) / gamma)
    return max(size if size % 2 else size + 1, 3)


@MODELS.register_module()
class ECA(nn.Module):
    """Scale each channel by a gate in 0..1 that depends on the means of the channels beside it.

    Mean over the map, a convolution of one filter along the channels, sigmoid. (B, C, H, W) -> the same shape.

    Args:
        in_channels: C.
        kernel_size: channels that a gate sees, odd; None takes the paper's rule, `eca_kernel_size`. Released networks
            have lists of their own that do not follow it.

    Raises:
        ValueError: `kernel_size` is even.
    """

    _abbr_ = "eca"  # as a plug-in of OpenMMLab's ResNets it is found under this name
    NO_WEIGHT_DECAY = ("conv.weight",)  # some three numbers that make the gates

    def __init__(self, in_channels: int, kernel_size: int | None = None) -> None:
        super().__init__()
        size = eca_kernel_size(in_channels) if kernel_size is None else kernel_size
        if size < 1 or size % 2 == 0:
            raise ValueError(f"ECA: kernel_size {size} must be odd and positive, or None for the paper's rule")
        self.conv = nn.Conv1d(1, 1, size, padding=size // 2, bias=False)

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """`x` scaled, plus `add` (of the same shape) if there is one, in one pass over memory."""
        if records(x, self.conv.weight):
            return _Scaled.apply(x, self.conv.weight, add if add is None else add.to(x.dtype))
        return scale_and_add(x, _gate(x.mean((2, 3)), self.conv.weight).to(x.dtype)[:, :, None, None], add)


def scale_and_add(x: Tensor, gate: Tensor, add: Tensor | None) -> Tensor:
    """x * gate, plus `add` if there is one; gate is of x's shape or broadcasts to it."""
    return x * gate if add is None else torch.addcmul(add, x, gate)


def _gate(mean: Tensor, weight: Tensor) -> Tensor:
    """Means (B, C) and filter (1, 1, k) -> gates (B, C)."""
    return F.conv1d(mean[:, None].to(weight.dtype), weight, padding=weight.shape[-1] // 2)[:, 0].sigmoid()


class _Scaled(torch.autograd.Function):
    """The same with a derivative that passes over the map twice; PyTorch's makes two more maps for the mean's part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, add: Tensor | None) -> Tensor:
        mean = x.mean((2, 3))
        gate = _gate(mean, weight).to(x.dtype)
        ctx.save_for_backward(x, weight, mean, gate)
        ctx.adds = add is not None
        return scale_and_add(x, gate[:, :, None, None], add)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        x, weight, mean, gate = ctx.saved_tensors
        reach = weight.shape[-1] // 2
        wide = gate.to(weight.dtype)
        # In parts, so that the product is never a whole map beside the others.
        sums = [(part * values).sum((2, 3)) for part, values in zip(d_out.chunk(4), x.chunk(4), strict=True)]
        d_logit = torch.cat(sums).to(weight.dtype) * wide * (1 - wide)
        d_mean = F.conv_transpose1d(d_logit[:, None], weight, padding=reach)[:, 0] / (x.shape[2] * x.shape[3])
        seen = F.pad(mean.to(weight.dtype), (reach, reach)).unfold(1, weight.shape[-1], 1)  # (B, C, k)
        d_weight = (seen * d_logit[..., None]).sum((0, 1))[None, None]
        d_x = torch.addcmul(d_mean.to(x.dtype)[:, :, None, None], d_out, gate[:, :, None, None])
        return d_x, d_weight, d_out if ctx.adds else None
