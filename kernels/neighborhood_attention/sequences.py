"""Maps as sequences with heads first, the form in which PyTorch's own attention functions take them."""

import torch
from torch import Tensor


def to_sequences(
    query: Tensor, key: Tensor, value: Tensor, additional_keys: Tensor | None, additional_values: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """(B, *S, heads, channels) -> (B, H, N, D), (B, G, N + M, D) and (B, G, N + M, E); additional tokens come last."""
    q, k, v = query.flatten(1, -3), key.flatten(1, -3), value.flatten(1, -3)
    if additional_keys is not None and additional_values is not None:
        k, v = torch.cat([k, additional_keys], dim=1), torch.cat([v, additional_values], dim=1)
    return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)


def to_map(sequence: Tensor, spatial: tuple[int, ...]) -> Tensor:
    """(B, H, N) or (B, H, N, E) -> (B, *S, H) or (B, *S, H, E), contiguous."""
    return sequence.transpose(1, 2).unflatten(1, spatial).contiguous()
