"""RoIAlign (arXiv:1703.06870) and RoIPool (arXiv:1504.08083).

Letters: K regions, C channels, H and W of the map, P and Q rows and columns of bins, `rois` (K, 5): index of the
picture, x1, y1, x2, y2. The operators write into the tensors named output, argmax and grad_input.
"""

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from .bilinear import corners, pixel_table, weighted_sums
from .calling import widened

MAX_POOL, AVG_POOL = 0, 1
CHUNK = 1 << 24  # elements of one temporary


def grid_sizes(extent: Tensor, bins: int, sampling_ratio: int) -> Tensor:
    """(K,) samples of a bin along one axis: as asked, or one for each begun pixel; none if the extent is no number."""
    if sampling_ratio > 0:
        return torch.full_like(extent, sampling_ratio, dtype=torch.long)
    return (extent / bins).float().nan_to_num(0, 0, 0).ceil().clamp(min=0).long()


def sample_positions(start: Tensor, bin_size: Tensor, bins: int, samples: int) -> Tensor:
    """(K, bins, samples): evenly spread positions in each of `bins` bins that follow each other from `start` (K,)."""
    bin_low = start[:, None] + bin_size[:, None] * torch.arange(bins, device=start.device)
    steps = (torch.arange(samples, device=start.device) + 0.5) * bin_size[:, None] / samples
    return bin_low[:, :, None] + steps[:, None, :]


def roi_align_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """(B, C, H, W) -> `output` (K, C, P, Q); in max mode also the position of each maximum."""
    features, rois = widened(input, rois)
    if pool_mode == AVG_POOL:
        size = (aligned_height, aligned_width)
        output.copy_(
            torch.ops.torchvision.roi_align(features, rois, spatial_scale, *size, sampling_ratio, bool(aligned))
        )
        return
    bins = aligned_height, aligned_width
    height, width = features.shape[2:]
    low = rois[:, [2, 1]] * spatial_scale - 0.5 * bool(aligned)  # (K, 2), y before x
    extent = rois[:, [4, 3]] * spatial_scale - 0.5 * bool(aligned) - low
    if not aligned:
        extent = extent.clamp(min=1)
    bin_size = extent / extent.new_tensor(bins)
    grids = torch.stack([grid_sizes(extent[:, i], bins[i], sampling_ratio) for i in (0, 1)], dim=1)
    table = pixel_table(features)
    output.fill_(torch.finfo(torch.float32).min if output.dtype != torch.float16 else torch.finfo(torch.float16).min)
    argmax_y.fill_(-1)
    argmax_x.fill_(-1)
    for rows, columns in grids.unique(dim=0).tolist():
        if rows * columns == 0:  # a region without extent has no sample
            continue
        chosen = (grids == grids.new_tensor([rows, columns])).all(dim=1).nonzero()[:, 0]
        cells = bins[0] * bins[1] * rows * columns * features.shape[1]
        for part in chosen.split(max(1, CHUNK // cells)):
            y = sample_positions(low[part, 0], bin_size[part, 0], bins[0], rows)[:, :, None, :, None]
            x = sample_positions(low[part, 1], bin_size[part, 1], bins[1], columns)[:, None, :, None, :]
            y, x = torch.broadcast_tensors(y, x)
            where = corners(y, x, height, width)
            index = where.index + rois[part, 0].long()[:, None, None, None, None, None] * (height * width)
            values = weighted_sums(table, index.flatten(0, -2), where.weight.flatten(0, -2))
            best = values.view(len(part), *bins, rows * columns, -1).max(dim=3)  # (K, P, Q, C)
            output[part] = best.values.permute(0, 3, 1, 2).to(output.dtype)
            argmax_y[part] = y.flatten(3).gather(3, best.indices).permute(0, 3, 1, 2).to(argmax_y.dtype)
            argmax_x[part] = x.flatten(3).gather(3, best.indices).permute(0, 3, 1, 2).to(argmax_x.dtype)


def roi_align_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax_y: Tensor,
    argmax_x: Tensor,
    grad_input: Tensor,
    aligned_height: int,
    aligned_width: int,
    spatial_scale: float,
    sampling_ratio: int,
    pool_mode: int,
    aligned: bool,
) -> None:
    """Add to `grad_input` (B, C, H, W) what `grad_output` (K, C, P, Q) gives."""
    grad, rois = widened(grad_output, rois)
    if pool_mode == AVG_POOL:
        size = (aligned_height, aligned_width)
        grad_input += torch.ops.torchvision._roi_align_backward(
            grad, rois, spatial_scale, *size, *grad_input.shape, sampling_ratio, bool(aligned)
        ).to(grad_input.dtype)
        return
    channels, height, width = grad_input.shape[1:]
    y, x = widened(argmax_y, argmax_x)
    where = corners(y, x, height, width)
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)  # (K, C)
    index = where.index + plane[:, :, None, None, None] * (height * width)
    amount = (grad * (y != -1))[..., None] * where.weight
    total = grad.new_zeros(grad_input.numel()).index_add_(0, index.flatten(), amount.flatten())
    grad_input += total.view(grad_input.shape).to(grad_input.dtype)


def roi_pool_forward(
    input: Tensor,
    rois: Tensor,
    output: Tensor,
    argmax: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """(B, C, H, W) -> `output` (K, C, P, Q), and the pixel of each maximum in `argmax`, -1 for an empty bin.

    Not torchvision's operator: that one rounds the region to whole pixels first, mmcv rounds the bins outwards.
    """
    features, rois = widened(input, rois)
    height, width = features.shape[2:]
    pixels = torch.nn.functional.pad(pixel_table(features), (0, 0, 0, 1), value=float("-inf"))  # last row: no pixel

    def edges(low: Tensor, high: Tensor, bins: int, limit: int) -> tuple[Tensor, Tensor]:
        """(K, bins) first pixel and end of each bin; (0, 0) for a region turned inside out."""
        size = ((high - low) / bins)[:, None]
        steps = torch.arange(bins + 1, device=low.device)
        at = (steps * size + low[:, None]).float()
        proper = (high > low)[:, None]
        return (at[:, :-1].floor().clamp(0, limit).long() * proper, at[:, 1:].ceil().clamp(0, limit).long() * proper)

    y_low, y_end = edges(rois[:, 2] * spatial_scale, (rois[:, 4] + 1) * spatial_scale, pooled_height, height)
    x_low, x_end = edges(rois[:, 1] * spatial_scale, (rois[:, 3] + 1) * spatial_scale, pooled_width, width)
    sizes = torch.stack([(y_end - y_low).amax(dim=1), (x_end - x_low).amax(dim=1)], dim=1).clamp(min=1)  # (K, 2)
    for rows, columns in sizes.unique(dim=0).tolist():
        chosen = (sizes == sizes.new_tensor([rows, columns])).all(dim=1).nonzero()[:, 0]
        cells = pooled_height * pooled_width * rows * columns * features.shape[1]
        for part in chosen.split(max(1, CHUNK // cells)):
            y = y_low[part, :, None] + torch.arange(rows, device=rois.device)  # (K, P, rows)
            x = x_low[part, :, None] + torch.arange(columns, device=rois.device)
            in_bin = (y < y_end[part, :, None])[:, :, None, :, None] & (x < x_end[part, :, None])[:, None, :, None, :]
            pixel = (y * width)[:, :, None, :, None] + x[:, None, :, None, :]
            index = pixel + rois[part, 0].long()[:, None, None, None, None] * (height * width)
            index = index.masked_fill(~in_bin, len(pixels) - 1).flatten(3)
            best = pixels[index].max(dim=3)  # (K, P, Q, C)
            empty = ~in_bin.flatten(3).any(dim=3, keepdim=True)
            place = pixel.flatten(3).gather(3, best.indices).masked_fill(empty, -1)
            output[part] = best.values.masked_fill(empty, 0).permute(0, 3, 1, 2).to(output.dtype)
            argmax[part] = place.permute(0, 3, 1, 2).to(argmax.dtype)


def roi_pool_backward(
    grad_output: Tensor,
    rois: Tensor,
    argmax: Tensor,
    grad_input: Tensor,
    pooled_height: int,
    pooled_width: int,
    spatial_scale: float,
) -> None:
    """Add to `grad_input` (B, C, H, W) each gradient of `grad_output` (K, C, P, Q) at the pixel in `argmax`."""
    (grad,) = widened(grad_output)
    channels, height, width = grad_input.shape[1:]
    plane = rois[:, :1].long() * channels + torch.arange(channels, device=rois.device)
    index = argmax.long().clamp(min=0) + plane[:, :, None, None] * (height * width)
    total = grad.new_zeros(grad_input.numel()).index_add_(0, index.flatten(), (grad * (argmax >= 0)).flatten())
    grad_input += total.view(grad_input.shape).to(grad_input.dtype)
