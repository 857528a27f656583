"""Which keys a query of neighborhood attention sees. The axes never interact: the rule is for one axis at a time.

Neighborhood Attention Transformer (arXiv:2204.07143), dilation (arXiv:2209.15001), strides and causal axes
(arXiv:2504.16922). Letters, here and in the files beside this one: L length of an axis, k kernel size, s stride,
d dilation. Token i of an axis belongs to dilation group i % d, where it stands at place i // d of n.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Window(NamedTuple):
    """The neighborhood: one entry a spatial axis in each field. Hashable, and what the operators are called with."""

    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]


class AxisKeys(NamedTuple):
    """For every query of one axis (rows) its keys (columns)."""

    index: Tensor  # (L, k) int64: token seen; a repeated valid token where `seen` is False
    seen: Tensor  # (L, k) bool: False only on causal axes, where windows are shorter near the start
    offset: Tensor  # (L, k) int64: place of the key - place of the query + k - 1, the index into a bias table


def key_range(
    place: Tensor, length: Tensor | int, kernel_size: int, stride: int, causal: bool
) -> tuple[Tensor, Tensor]:
    """First and one-past-last place seen by the query at `place` of a dilation group with `length` tokens."""
    last = length - 1 if isinstance(length, Tensor) else torch.tensor(length - 1, device=place.device)
    if causal:  # the start follows the leader of the stride's group, the end the query itself
        leader = torch.minimum(place // stride * stride + stride - 1, last)
        return (leader - kernel_size + 1).clamp(min=0), place + 1
    leader = torch.minimum(place // stride * stride + stride // 2, last)
    # The window slides inward at the borders, it does not shrink.
    start = torch.minimum((leader - kernel_size // 2).clamp(min=0), last + 1 - kernel_size)
    return start, start + kernel_size


def axis_keys(
    length: int, kernel_size: int, stride: int, dilation: int, causal: bool, device: torch.device | str = "cpu"
) -> AxisKeys:
    """The keys of all queries of one axis. Needs 1 <= stride <= kernel_size and kernel_size * dilation <= length."""
    token = torch.arange(length, device=device)
    group, place = token % dilation, token // dilation
    group_length = (length - group + dilation - 1) // dilation
    start, end = key_range(place, group_length, kernel_size, stride, causal)
    key = start[:, None] + torch.arange(kernel_size, device=device)
    seen = key < end[:, None]
    key = torch.minimum(key, end[:, None] - 1)
    return AxisKeys(group[:, None] + dilation * key, seen, key - place[:, None] + kernel_size - 1)


def neighbors(
    spatial: tuple[int, ...], window: Window, device: torch.device | str = "cpu", tokens: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """The keys of the queries at `tokens`, numbers in the flattened map; None: of all N = product of S queries.

    Returns:
        Token seen, whether it is seen, and the index into the flattened bias table; each (queries, K), K = product of
        the kernel's sizes, with the meaning of `AxisKeys`.
    """
    token = torch.arange(math.prod(spatial), device=device) if tokens is None else tokens
    index = torch.zeros(token.shape[0], 1, dtype=torch.int64, device=device)
    offset, seen = torch.zeros_like(index), torch.ones_like(index, dtype=torch.bool)
    for i, (length, k, s, d, causal) in enumerate(zip(spatial, *window, strict=True)):
        axis = axis_keys(length, k, s, d, causal, device)
        place = token // math.prod(spatial[i + 1 :]) % length
        index = (index[:, :, None] * length + axis.index[place][:, None]).flatten(1)
        offset = (offset[:, :, None] * (2 * k - 1) + axis.offset[place][:, None]).flatten(1)
        seen = (seen[:, :, None] & axis.seen[place][:, None]).flatten(1)
    return index, seen, offset
