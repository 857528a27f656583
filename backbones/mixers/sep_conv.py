"""Inverted separable convolution as the token mixer (MobileNetV2, arXiv:1801.04381; ConvFormer, arXiv:2210.13452)."""

from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import DepthwiseConv, Linear, StarReLU


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
        width = int(expansion_ratio * dim)
        self.pwconv1 = Linear(dim, width, bias=False)
        self.act1 = StarReLU(inplace=True)
        self.dwconv = DepthwiseConv(width, kernel_size, bias=False)
        self.pwconv2 = Linear(width, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.pwconv2(self.dwconv(self.act1(self.pwconv1(x))))
