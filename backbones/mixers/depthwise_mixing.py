"""A depthwise convolution between two linear layers (BiFormer's yardstick for its routing, arXiv:2303.08810)."""

from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import DepthwiseConv, Linear


@MIXERS.register_module()
class DepthwiseMixing(nn.Module):
    """Linear, depthwise convolution, linear, no activation: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels.
        kernel_size: side of the kernel in tokens; odd.
    """

    def __init__(self, dim: int, kernel_size: int = 5) -> None:
        super().__init__()
        self.pwconv1 = Linear(dim, dim)
        self.dwconv = DepthwiseConv(dim, kernel_size)
        self.pwconv2 = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.pwconv2(self.dwconv(self.pwconv1(x)))
