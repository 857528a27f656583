"""Queries, keys and values of several heads in one projection, and attention of them (arXiv:1706.03762)."""

import torch.nn.functional as F
from torch import Tensor


def split_heads(qkv: Tensor, num_heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """(B, L, 3 * num_heads * D), queries first -> queries, keys and values, views (B, num_heads, L, D)."""
    # Taken apart here and not first turned round: so the gradient comes together again in one copy.
    q, k, v = qkv.unflatten(-1, (3, num_heads, -1)).unbind(2)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def attention(qkv: Tensor, num_heads: int, bias: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(D) + bias) V of each head: (B, L, 3 * num_heads * D) -> (B, L, num_heads * D).

    Args:
        bias: broadcasts to (B, num_heads, L, L), of query and key.
    """
    mixed = F.scaled_dot_product_attention(*split_heads(qkv, num_heads), attn_mask=bias)
    return mixed.transpose(1, 2).flatten(2)
