"""Inverted separable convolution as the token mixer (MobileNetV2, arXiv:1801.04381; ConvFormer, arXiv:2210.13452)."""

from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import StarReLU


@MIXERS.register_module()
class SepConv(nn.Module):
    """Linear, StarReLU, depthwise convolution, linear, without biases: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels.
        expansion_ratio: channels between the linear layers as a multiple of `dim`.
        kernel_size: side of the depthwise kernel in tokens; odd, so that the map keeps its size.
    """

    def __init__(self, dim: int, expansion_ratio: float = 2.0, kernel_size: int = 7) -> None:
        super().__init__()
        if kernel_size % 2 == 0:
            raise ValueError(f"SepConv: kernel_size {kernel_size} must be odd")
        width = int(expansion_ratio * dim)
        self.pwconv1 = nn.Linear(dim, width, bias=False)
        self.act1 = StarReLU()
        self.dwconv = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width, bias=False)
        self.pwconv2 = nn.Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act1(self.pwconv1(x))
        return self.pwconv2(self.dwconv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))
