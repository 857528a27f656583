"""Deformable RoI pooling (arXiv:1703.06211): RoIAlign whose bins are shifted by learned offsets.

Letters as in `roi.py`. `offset` is (K, 2, P, Q), x before y, in shares of the region's width and height times `gamma`,
or empty for none.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from .bilinear import Corners, corners, pixel_table, weighted_sums
from .calling import widened
from .roi import grid_sizes, sample_positions


class Group(NamedTuple):
    """Regions whose bins have equally many samples S."""

    part: Tensor  # (K,) their numbers
    y: Tensor  # (K, P, Q, S)
    x: Tensor
    where: Corners  # of these positions
    bags: Tensor  # (K * P * Q, S * 4) rows of the pixel table
    extent: Tensor  # (K, 2) height and width


def _groups(
    rois: Tensor,
    offset: Tensor,
    size: torch.Size,
    bins: tuple[int, int],
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> Iterator[Group]:
    height, width = size
    low = rois[:, [2, 1]] * spatial_scale - 0.5
    extent = rois[:, [4, 3]] * spatial_scale - 0.5 - low
    bin_size = extent / extent.new_tensor(bins)
    grids = torch.stack([grid_sizes(extent[:, i], bins[i], sampling_ratio) for i in (0, 1)], dim=1)
    for rows, columns in grids.unique(dim=0).tolist():
        if rows * columns == 0:  # a region without extent has no sample
            continue
        part = (grids == grids.new_tensor([rows, columns])).all(dim=1).nonzero()[:, 0]
        y = sample_positions(low[part, 0], bin_size[part, 0], bins[0], rows)[:, :, None, :, None]
        x = sample_positions(low[part, 1], bin_size[part, 1], bins[1], columns)[:, None, :, None, :]
        if offset.numel():
            shift = gamma * extent[part].flip(1)[:, :, None, None] * offset[part]
            x, y = x + shift[:, 0, :, :, None, None], y + shift[:, 1, :, :, None, None]
        y, x = (t.expand(len(part), *bins, rows, columns).flatten(3) for t in (y, x))
        where = corners(y, x, height, width)
        index = where.index + rois[part, 0].long()[:, None, None, None, None] * (height * width)
        yield Group(part, y, x, where, index.flatten(3).flatten(0, 2), extent[part])


def deform_roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    output: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """(B, C, H, W) -> `output` (K, C, P, Q)."""
    features, rois, offset = widened(input, rois, offset)
    bins = pooled_height, pooled_width
    table = pixel_table(features)
    output.zero_()
    for group in _groups(rois, offset, features.shape[2:], bins, spatial_scale, sampling_ratio, gamma):
        sums = weighted_sums(table, group.bags, group.where.weight.reshape(group.bags.shape))
        mean = sums.view(len(group.part), *bins, -1) / group.y.shape[-1]
        output[group.part] = mean.permute(0, 3, 1, 2).to(output.dtype)


def deform_roi_pool_backward(
    grad_output: Tensor,
    input: Tensor,
    rois: Tensor,
    offset: Tensor,
    grad_input: Tensor,
    grad_offset: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    gamma: float,
) -> None:
    """Add to `grad_input` (B, C, H, W) and `grad_offset` (K, 2, P, Q).

    Where a sample is off the map by less than a pixel, the gradient of the offset is mmcv's, which is not quite the
    derivative: it is taken with the position before it is drawn back to the border.
    """
    features, rois, offset, grad = widened(input, rois, offset, grad_output)
    bins = pooled_height, pooled_width
    table = pixel_table(features).detach().requires_grad_()
    d_table = torch.zeros_like(table)
    for group in _groups(rois, offset, features.shape[2:], bins, spatial_scale, sampling_ratio, gamma):
        d_sums = grad[group.part].permute(0, 2, 3, 1).flatten(0, 2) / group.y.shape[-1]
        weight = group.where.weight.reshape(group.bags.shape).requires_grad_()
        with torch.enable_grad():
            sums = weighted_sums(table, group.bags, weight)
        d_pixels, d_weight = torch.autograd.grad(sums, (table, weight), d_sums)
        d_table += d_pixels
        if offset.numel():
            # d_weight: how the loss changes with a pixel's share, here as low-low, low-high, high-low, high-high.
            ll, lh, hl, hh = (d_weight.view(*group.y.shape, 4) * group.where.inside[..., None]).unbind(-1)
            y_up, y_down = group.where.y_high - group.y, group.y - group.where.y_low
            x_up, x_down = group.where.x_high - group.x, group.x - group.where.x_low
            d_x = (y_up * (lh - ll) + y_down * (hh - hl)).sum(-1)
            d_y = (x_up * (hl - ll) + x_down * (hh - lh)).sum(-1)
            scale = gamma * group.extent.flip(1)[:, :, None, None]
            grad_offset[group.part] += (torch.stack([d_x, d_y], dim=1) * scale).to(grad_offset.dtype)
    batch, channels, height, width = input.shape
    grad_input += d_table.view(batch, height, width, channels).permute(0, 3, 1, 2).to(grad_input.dtype)
