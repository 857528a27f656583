"""Attention among all tokens with a learned bias for every distance (ViT-rpb of DiNAT's paper, arXiv:2209.15001)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import Linear, attention


@MIXERS.register_module()
class RelativeAttention(nn.Module):
    """All tokens attend to all: (B, H, W, C) -> (B, H, W, C). Time and memory are quadratic in the number of tokens.

    Args:
        dim: channels.
        num_heads: heads; None has one for 32 channels.
        table_size: side of the square map of which the table holds every distance; on other maps it is resampled.
        qkv_bias: whether the projection to queries, keys and values has a bias.

    Raises:
        ValueError: `num_heads` does not divide `dim`.
    """

    NO_WEIGHT_DECAY = ("rpb",)

    def __init__(self, dim: int, num_heads: int | None = None, table_size: int = 14, qkv_bias: bool = True) -> None:
        super().__init__()
        num_heads = max(dim // 32, 1) if num_heads is None else num_heads
        if dim % num_heads:
            raise ValueError(f"RelativeAttention: dim {dim} must be a multiple of num_heads, got {num_heads}")
        self.num_heads = num_heads
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.rpb = nn.Parameter(torch.empty(num_heads, 2 * table_size - 1, 2 * table_size - 1))
        nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        qkv = self.qkv(x).flatten(1, 2)
        return self.proj(attention(qkv, self.num_heads, self.bias(height, width).to(qkv.dtype))).view(x.shape)

    def bias(self, height: int, width: int) -> Tensor:
        """(num_heads, H * W, H * W): the table at key less query."""
        table = resample(self.rpb, (2 * height - 1, 2 * width - 1))
        rows, columns = (torch.arange(side, device=table.device) for side in (height, width))
        rows, columns = ((at[None] - at[:, None] + len(at) - 1) for at in (rows, columns))
        table = table[:, rows[:, None, :, None], columns[None, :, None, :]]
        return table.reshape(self.num_heads, height * width, height * width)


def resample(table: Tensor, size: tuple[int, int]) -> Tensor:
    """(heads, ., .) -> (heads, *size), bicubic with the corners kept; as it is where the size is right already."""
    if table.ndim != 3 or table.shape[1:] == tuple(size):
        return table
    wide = table[None].to(torch.promote_types(table.dtype, torch.float32))
    return F.interpolate(wide, size, mode="bicubic", align_corners=True)[0].to(table.dtype)
