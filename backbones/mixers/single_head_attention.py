"""Attention by one head over a part of the channels (SHViT, arXiv:2401.16456)."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import ConvBN, GroupNorm1


@MIXERS.register_module()
class SingleHeadAttention(nn.Module):
    """All tokens attend to all by one head, on the first channels; the others pass it by: (B, H, W, C) -> (B, H, W, C).

    The attended channels are normed over the whole map, then projected to queries, keys and values, each projection
    with a batch norm; the result goes through a ReLU and a projection of all channels together. No position enters.
    Time is quadratic in the number of tokens.

    Args:
        dim: channels.
        partial_dim: how many of them are attended; the release has 1 / 4.67 of them or thereabouts. None: that share.
        qk_dim: channels of queries and keys.
        bn_weight_init: initial scale of the last norm; 0 lets the mixer begin as nothing.

    Raises:
        ValueError: `partial_dim` is not in 1..dim.
    """

    def __init__(self, dim: int, partial_dim: int | None = None, qk_dim: int = 16, bn_weight_init: float = 0.0) -> None:
        super().__init__()
        partial_dim = max(round(dim / 4.67), 1) if partial_dim is None else partial_dim
        if not 1 <= partial_dim <= dim:
            raise ValueError(f"SingleHeadAttention: partial_dim {partial_dim} is not in 1..{dim}, its dim")
        self.dim, self.partial_dim, self.qk_dim = dim, partial_dim, qk_dim
        self.norm = GroupNorm1(partial_dim)
        self.qkv = ConvBN(partial_dim, 2 * qk_dim + partial_dim)
        self.proj = ConvBN(dim, dim, bn_weight_init=bn_weight_init)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        part, rest = x.split((self.partial_dim, self.dim - self.partial_dim), dim=-1)
        qkv = self.qkv(self.norm(part).permute(0, 3, 1, 2)).permute(0, 2, 3, 1).flatten(1, 2)
        q, k, v = qkv.split((self.qk_dim, self.qk_dim, self.partial_dim), dim=-1)
        part = _attend(q, k, v).view(batch, height, width, self.partial_dim)
        x = F.relu(torch.cat((part, rest), dim=-1), inplace=True)
        return self.proj(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Queries and keys (B, L, D), values (B, L, E) -> (B, L, E)."""
    if q.is_cuda:
        return F.scaled_dot_product_attention(q[:, None], k[:, None], v[:, None])[:, 0]
    # On CPUs PyTorch's fused attention wants values as wide as queries, and what it falls back to takes twice as long.
    nothing = q.new_zeros(())  # baddbmm for its factor, which otherwise were a pass over the queries
    return torch.baddbmm(nothing, q, k.mT, beta=0, alpha=q.shape[-1] ** -0.5).softmax(dim=-1) @ v
