"""Depthwise convolution whose weight gradient is quick on CPUs."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight

STRIP = 3  # columns of a kernel for whose gradient oneDNN has a quick routine, whatever the rows


class _StripGradient(torch.autograd.Function):
    """Stride 1, zeros all round, output of the input's size: (B, C, H, W) by (C, 1, k, k) and (C,) or None.

    oneDNN's routine for the gradient of a depthwise kernel takes kernels three columns wide; wider ones go another way,
    which takes 2 to 50 times as long. Three columns of a wide kernel are a narrow kernel on a shifted input: a few
    quick calls give the gradient of the wide one. The gradient of the input is a convolution with the kernel turned
    round, and convolutions are quick at every width.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return F.conv2d(x, weight, bias, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor, Tensor | None], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        if ctx.needs_input_grad[0]:
            d_x = F.conv2d(grad, weight.flip(2, 3), padding=weight.shape[-1] // 2, groups=len(weight))
        if ctx.needs_input_grad[1]:
            d_weight = _weight_gradient(x, grad, weight)
        if ctx.needs_input_grad[2]:
            d_bias = grad.sum(dim=(0, 2, 3))
        return d_x, d_weight, d_bias


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor) -> Tensor:
    channels, side, width = len(weight), weight.shape[-1], x.shape[-1]
    x = F.pad(x, (side // 2, side // 2))
    result, strips = torch.empty_like(weight), -(-side // STRIP)
    for strip in range(strips):
        first = round(strip * (side - STRIP) / (strips - 1))  # from edge to edge; some overlap
        seen = x.narrow(-1, first, width + STRIP - 1)
        result[..., first : first + STRIP] = conv2d_weight(
            seen, (channels, 1, side, STRIP), grad, padding=(side // 2, 0), groups=channels
        )
    return result


class DepthwiseConv(nn.Conv2d):
    """A convolution of each channel by itself, with zeros all round: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels.
        kernel_size: side of the kernel in tokens; odd.

    Raises:
        ValueError: `kernel_size` is even.
    """

    def __init__(self, dim: int, kernel_size: int, bias: bool = True) -> None:
        if kernel_size % 2 == 0:
            raise ValueError(f"DepthwiseConv: kernel_size {kernel_size} must be odd")
        super().__init__(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        x, values = x.permute(0, 3, 1, 2), (self.weight, self.bias)
        if self.kernel_size[0] <= STRIP or x.device.type != "cpu" or not torch.is_grad_enabled():
            return super().forward(x).permute(0, 2, 3, 1)
        if torch.is_autocast_enabled("cpu"):  # as autocast does for convolutions
            low = torch.get_autocast_dtype("cpu")
            x, values = x.to(low), tuple(None if value is None else value.to(low) for value in values)
        return _StripGradient.apply(x, *values).permute(0, 2, 3, 1)
