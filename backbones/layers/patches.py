"""Non-overlapping patches: of the picture, and of a map (Swin, arXiv:2103.14030)."""

import torch
from torch import Tensor, nn

from .linear import Linear
from .windows import pad_to_multiple


class PatchStem(nn.Module):
    """Non-overlapping patches, layer norm: (B, C_in, H, W) -> (B, H/p, W/p, dim), sizes rounded up by zeros."""

    def __init__(self, in_channels: int, dim: int, patch_size: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, dim, patch_size, patch_size)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x.permute(0, 2, 3, 1), self.conv.stride)
        x = self.conv(x.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last))
        return self.norm(x.permute(0, 2, 3, 1))


class PatchMerging(nn.Module):
    """Two by two tokens side by side, layer norm, one projection (Swin, arXiv:2103.14030).

    (B, H, W, C) -> (B, H/2, W/2, C'), sizes rounded up by zeros. Of the four, the lower one of a column comes second.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * in_channels)
        self.reduction = Linear(4 * in_channels, out_channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x, (2, 2))
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * channels)))
