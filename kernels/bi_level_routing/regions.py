"""Maps cut into a grid of regions, their means, and the choice of regions that each region attends to.

BiFormer (arXiv:2303.08810). Letters, here and in the files beside this one: B batch, H and W of a map, N heads, D
channels a head of queries and keys, E channels a head of values, R regions of a map (rows of the grid x its columns, in
row order), T tokens of a region of queries, U tokens of a region of keys, K regions chosen for each (`topk`).
"""

from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import torch
from torch import Tensor

from ..tensors import wide_dtype

Grid = tuple[int, int]  # rows and columns of regions


class Routing(NamedTuple):
    """Which regions of keys each region of queries attends to."""

    index: Tensor  # (B, R, K) int64: numbers of regions
    weights: Tensor | None = None  # (B, R, K): factors on the keys and the values of a region; None: none


def no_autocast(device: torch.device) -> AbstractContextManager:
    """A context in which every operation keeps its dtype."""
    kind = device.type
    if kind == "meta" or not torch.amp.is_autocast_available(kind) or not torch.is_autocast_enabled(kind):
        return nullcontext()
    return torch.autocast(kind, enabled=False)


def grid_axes(x: Tensor, grid: Grid) -> Tensor:
    """(B, H, W, ...) -> (B, rows, h, columns, w, ...), a view; the grid divides H and W."""
    rows, columns = grid
    return x.unflatten(2, (columns, x.shape[2] // columns)).unflatten(1, (rows, x.shape[1] // rows))


def to_regions(x: Tensor, grid: Grid) -> Tensor:
    """(B, H, W, ...) -> (B, R, T, ...), tokens of a region in row order."""
    return grid_axes(x, grid).transpose(2, 3).flatten(3, 4).flatten(1, 2)


def from_regions(x: Tensor, grid: Grid, size: tuple[int, int]) -> Tensor:
    """(B, R, T, ...) -> (B, H, W, ...), H and W as `size` says: the reverse of `to_regions`."""
    x = x.unflatten(2, (size[0] // grid[0], size[1] // grid[1])).unflatten(1, grid)
    return x.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def empty_regions(mask: Tensor, grid: Grid) -> Tensor:
    """Which regions of a mask (B, H, W) hold no token that counts: (B, R) bool."""
    return ~to_regions(mask, grid).any(-1)


def region_means(x: Tensor, grid: Grid, mask: Tensor | None = None) -> Tensor:
    """The mean token of each region: (B, H, W, C) -> (B, R, C), float32 or float64.

    Args:
        grid: rows and columns of regions; they divide H and W.
        mask: (B, H, W) bool, True for the tokens that count; a region without any has a mean of 0.
    """
    wide = wide_dtype(x)
    if mask is None:
        return grid_axes(x, grid).mean((2, 4), dtype=wide).flatten(1, 2)
    counts = grid_axes(mask, grid).sum((2, 4)).clamp(min=1)
    sums = grid_axes(x.masked_fill(~mask[..., None], 0), grid).sum((2, 4), dtype=wide)
    return (sums / counts[..., None]).flatten(1, 2)


def route(
    q_means: Tensor, k_means: Tensor, topk: int, scale: float, empty: Tensor | None = None, soft: bool = False
) -> Routing:
    """For each region of queries the `topk` regions of keys whose mean fits its own best.

    The scores are scale * q_means k_means^T. They have a gradient by way of soft weights alone; the released networks
    detach the means, so that the attention itself is all that queries and keys learn from.

    Args:
        q_means, k_means: (B, R, C), two numbers of regions if need be.
        topk: at most the number of regions of keys.
        scale: factor on the scores.
        empty: (B, R) bool, True for regions of keys that are chosen last, as they hold no token that counts.
        soft: whether the routing has weights: the softmax of the chosen regions' scores.

    Returns:
        The chosen regions, the best first.
    """
    with no_autocast(q_means.device):
        scores = (q_means * scale) @ k_means.mT
        if empty is not None:  # finite, so that a softmax over nothing else is no NaN
            scores = scores.masked_fill(empty[:, None], torch.finfo(scores.dtype).min)
        best = scores.topk(topk, dim=-1)
        return Routing(best.indices, best.values.softmax(-1) if soft else None)
