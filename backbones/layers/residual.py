"""Parts of residual networks: convolutions of many channels, the end of a branch."""

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from .conv_bn import ConvBN
from .eca import ECA
from .ela import ELA


class ResidualConvBN(ConvBN):
    """`ConvBN` for kernels of hundreds of channels, padded by half its size: it folds by what the map's size is.

    Args:
        kernel_size: odd; the output has ceil(H / stride) x ceil(W / stride) pixels.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride, kernel_size // 2, groups)

    def folds(self, x: Tensor) -> bool:
        # Compiled, the norm is one pass with what follows it; in bfloat16 the folded weights would be rounded twice.
        if torch.compiler.is_compiling() or self.conv.weight.dtype not in (torch.float32, torch.float64):
            return False
        pixels = x.shape[0] * x.shape[2] * x.shape[3] // self.conv.stride[0] ** 2
        return 2 * self.conv.weight[0].numel() <= pixels  # the weights and the map have as many channels


class AddAttention(nn.Module):
    """Attention on a branch, if there is one, drop path, and the sum with the shortcut, two (B, C, H, W) -> one.

    The branch may be overwritten: it must be a tensor that no derivative needs, as what a norm gives is.
    """

    def __init__(self, attn: nn.Module | None, drop_path: float) -> None:
        super().__init__()
        self.attn = nn.Identity() if attn is None else attn
        self.drop_path = DropPath(drop_path)

    def forward(self, branch: Tensor, shortcut: Tensor) -> Tensor:
        drops = self.training and self.drop_path.drop_prob > 0
        if isinstance(self.attn, (ECA, ELA)) and not drops:
            return self.attn(branch, shortcut)  # scale and sum in one pass
        return self.drop_path(self.attn(branch)).add_(shortcut)
