"""Position by convolution."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


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
        # The sum with the input is one more weight at the kernel's centre, not one more pass over the map.
        weight, half = self.conv.weight + self.unit, self.conv.padding
        x = F.conv2d(x.permute(0, 3, 1, 2), weight, self.conv.bias, padding=half, groups=self.conv.groups)
        return x.permute(0, 2, 3, 1)
