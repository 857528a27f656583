"""Position by convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import autocasts


class ConvPosEnc(nn.Module):
    """A map plus a depthwise convolution of it with zero padding, which tells where the border is (arXiv:2102.10882).

    (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels.
        kernel_size: side of the kernel in tokens; odd.
    """

    def __init__(self, dim: int, kernel_size: int = 3) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"ConvPosEnc: kernel_size {kernel_size} must be odd")
        self.conv = nn.Conv2d(dim, dim, kernel_size, padding=kernel_size // 2, groups=dim)
        unit = torch.zeros(1, 1, kernel_size, kernel_size)
        unit[..., kernel_size // 2, kernel_size // 2] = 1.0
        self.register_buffer("unit", unit, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        # The sum with the input is one more weight at the kernel's centre, not one more pass over the map. Not so where
        # the convolution would round the input to half precision, or the weight that 1 is added to.
        y, weight = x.permute(0, 3, 1, 2), self.conv.weight
        wide = weight.dtype in (torch.float32, torch.float64) and not autocasts(x.device)
        if wide:
            weight = weight + self.unit
        z = F.conv2d(y, weight, self.conv.bias, padding=self.conv.padding, groups=self.conv.groups)
        return (z if wide else y + z).permute(0, 2, 3, 1)
