"""Bilinear reading of feature maps at real positions, as RoI operators define it.

Letters: B batch, C channels, H and W of the map. Position (y, x) = (0, 0) is the centre of the first pixel. Up to one
pixel outside of the map the border value counts; beyond that, zero.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Corners(NamedTuple):
    """The four pixels around each position: the last axis runs over (low y, low x), (low, high), (high, low), both."""

    index: Tensor  # into the H * W pixels, int64
    weight: Tensor  # zero where the position is outside
    inside: Tensor  # of the positions themselves, without the last axis, as are the following
    y_low: Tensor
    y_high: Tensor
    x_low: Tensor
    x_high: Tensor


def corners(y: Tensor, x: Tensor, height: int, width: int) -> Corners:
    """Pixels and weights for positions `y`, `x` of one shape."""
    inside = (y >= -1) & (y <= height) & (x >= -1) & (x <= width)
    y = torch.where(inside, y, 0).clamp(0, height - 1)
    x = torch.where(inside, x, 0).clamp(0, width - 1)
    y_low, x_low = y.long(), x.long()
    y_high, x_high = (y_low + 1).clamp(max=height - 1), (x_low + 1).clamp(max=width - 1)
    ly, lx = y - y_low, x - x_low
    index = torch.stack([r * width + c for r in (y_low, y_high) for c in (x_low, x_high)], dim=-1)
    weight = torch.stack([wy * wx for wy in (1 - ly, ly) for wx in (1 - lx, lx)], dim=-1) * inside[..., None]
    return Corners(index, weight, inside, y_low, y_high, x_low, x_high)


def pixel_table(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C), a row a pixel."""
    return features.permute(0, 2, 3, 1).reshape(-1, features.shape[1])


def weighted_sums(table: Tensor, index: Tensor, weight: Tensor) -> Tensor:
    """Sums over the last axis: `index`, `weight` (R, S) and `table` (N, C) -> (R, C), with no (R, S, C) in memory."""
    return F.embedding_bag(index, table, mode="sum", per_sample_weights=weight)
