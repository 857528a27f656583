"""Multi-scale deformable attention (Deformable DETR, arXiv:2010.04159).

Letters: B batch, S pixels of all levels, M heads, D channels a head, Q queries, L levels, P points a level. Positions
are x before y, in shares of the level's width and height; off the map there are zeros.
"""

import torch
from torch import Tensor

from .bilinear import weighted_sums
from .calling import widened


def _attend(value: Tensor, shapes: Tensor, starts: Tensor, locations: Tensor, attention: Tensor) -> Tensor:
    """(B, S, M, D), (L, 2) height and width, (L,), (B, Q, M, L, P, 2), (B, Q, M, L, P) -> (B, Q, M * D)."""
    batch, pixels, heads, dim = value.shape
    queries = locations.shape[1]
    height, width = (side[:, None] for side in shapes.long().unbind(1))  # (L, 1) against (..., L, P)
    x = locations[..., 0] * width - 0.5
    y = locations[..., 1] * height - 0.5
    x_low, y_low = x.detach().floor(), y.detach().floor()
    x_share, y_share = (1 - (x - x_low), x - x_low), (1 - (y - y_low), y - y_low)  # of the low and the high neighbour
    row_base = torch.arange(batch, device=value.device)[:, None, None, None, None] * pixels + starts.long()[:, None]
    head = torch.arange(heads, device=value.device)[:, None, None]
    index, weight = [], []
    for down in (0, 1):
        for right in (0, 1):
            row, column = y_low + down, x_low + right
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            # Points far off the map: where() before long(), which is undefined for what no int64 holds.
            pixel = torch.where(inside, row * width + column, 0).long()
            index.append((row_base + pixel) * heads + head)
            weight.append(torch.where(inside, y_share[down] * x_share[right], 0) * attention)
    shape = (batch * queries * heads, -1)
    sums = weighted_sums(
        value.reshape(-1, dim), torch.stack(index, dim=-1).view(shape), torch.stack(weight, dim=-1).view(shape)
    )
    return sums.view(batch, queries, heads * dim)


def ms_deform_attn_forward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    im2col_step: int,
) -> Tensor:
    """The output (B, Q, M * D), in the dtype of `value`."""
    wide = widened(value, sampling_locations, attention_weights)
    return _attend(wide[0], value_spatial_shapes, value_level_start_index, *wide[1:]).to(value.dtype)


def ms_deform_attn_backward(
    value: Tensor,
    value_spatial_shapes: Tensor,
    value_level_start_index: Tensor,
    sampling_locations: Tensor,
    attention_weights: Tensor,
    grad_output: Tensor,
    grad_value: Tensor,
    grad_sampling_loc: Tensor,
    grad_attn_weight: Tensor,
    im2col_step: int,
) -> None:
    """Add to `grad_value`, write the other two."""
    *wide, grad = widened(value, sampling_locations, attention_weights, grad_output)
    inputs = [t.detach().requires_grad_() for t in wide]
    with torch.enable_grad():
        output = _attend(inputs[0], value_spatial_shapes, value_level_start_index, *inputs[1:])
    d_value, d_locations, d_attention = torch.autograd.grad(output, inputs, grad.view(output.shape))
    grad_value += d_value.to(grad_value.dtype)
    grad_sampling_loc.copy_(d_locations)
    grad_attn_weight.copy_(d_attention)
