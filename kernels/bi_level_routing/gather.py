"""Bi-level routed attention by gathering the routed keys and values, in plain PyTorch.

Keys and values are copied `topk` times, some regions of queries at a time. While training, the copies of large maps are
not kept: they are made again in the backward pass. A compiled graph copies all at once. Letters: see `regions.py`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..tensors import needs_grad, wide_dtype
from .arguments import Call
from .regions import Grid, Routing, from_regions, grid_axes, no_autocast, to_regions

# Keys and values gathered at a time, in elements.
GATHERED_ELEMENTS = 1 << 22


def why_not(call: Call) -> str | None:
    if call.batch == 0 or call.heads == 0:
        return "it takes no empty batch and no zero heads"
    return "it has no forward-mode derivative" if call.forward_mode else None


def run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lepe: Tensor | None,
    mask: Tensor | None,
    routing: Routing,
    grid: Grid,
    scale: float,
) -> Tensor:
    """As the reference, for calls that `why_not` lets through."""
    batch, height, width, heads, channels = q.shape
    if mask is not None:
        k, v = (x.masked_fill(~mask[..., None, None], 0) for x in (k, v))
    queries, keys, values = (_heads_first(x, grid) for x in (q, k, v))  # B * N, R, T or U, D or E
    regions = queries.shape[1]
    # Keys of all heads and pictures in one list of regions: a choice is a number in that list.
    first = torch.arange(batch * heads, device=q.device).view(batch, heads, 1, 1) * regions
    index = (routing.index[:, None] + first).flatten(0, 1)  # B * N, R, K
    factors = None if routing.weights is None else _each_head(routing.weights.to(q.dtype), heads)
    hidden = None
    if mask is not None:
        of_batch = torch.arange(batch, device=q.device)[:, None, None]
        hidden = _each_head(~to_regions(mask, grid)[of_batch, routing.index].flatten(2), heads)  # B * N, R, K * U

    keys, values = keys.flatten(0, 1), values.flatten(0, 1)
    records = needs_grad(queries, keys, values, factors)
    gathered = index[:, 0].numel() * keys.shape[1] * (keys.shape[2] + values.shape[2])
    # A compiler weighs keeping against recomputing by itself; and slices would tie its graph to one batch size.
    some = regions if torch.compiler.is_compiling() else max(1, GATHERED_ELEMENTS // gathered)
    recomputes = records and some < regions
    outs = []
    with no_autocast(q.device):
        for start in range(0, regions, some):
            part = slice(start, start + some)
            arguments = (
                queries[:, part],
                keys,
                values,
                index[:, part],
                None if factors is None else factors[:, part],
                None if hidden is None else hidden[:, part],
                scale,
                records,
            )
            if recomputes:
                outs.append(checkpoint(_attend, *arguments, use_reentrant=False, preserve_rng_state=False))
            else:
                outs.append(_attend(*arguments))
    out = torch.cat(outs, 1) if len(outs) > 1 else outs[0]
    out = from_regions(out.unflatten(0, (batch, heads)).permute(0, 2, 3, 1, 4), grid, (height, width))
    return out.contiguous() if lepe is None else out + lepe


def _heads_first(x: Tensor, grid: Grid) -> Tensor:
    """(B, H, W, N, D) -> (B * N, R, T, D)."""
    return grid_axes(x, grid).permute(0, 5, 1, 3, 2, 4, 6).flatten(4, 5).flatten(2, 3).flatten(0, 1)  # one copy


def _each_head(x: Tensor, heads: int) -> Tensor:
    """(B, R, .) -> (B * N, R, .)."""
    return x[:, None].expand(-1, heads, -1, -1).flatten(0, 1)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    index: Tensor,
    factors: Tensor | None,
    hidden: Tensor | None,
    scale: float,
    records: bool,
) -> Tensor:
    """Regions of queries (M, r, T, D) to those of the keys (L, U, D) and values (L, U, E) that `index` (M, r, K) names.

    Returns:
        (M, r, T, E).
    """
    k, v = (x.index_select(0, index.flatten()).unflatten(0, index.shape) for x in (k, v))
    if factors is not None:
        k, v = k * factors[..., None, None], v * factors[..., None, None]
    k, v = k.flatten(2, 3), v.flatten(2, 3)
    if records:  # SDPA has no second derivative, and in training is not quicker for so few keys
        logits = ((q * scale) @ k.mT).to(wide_dtype(q))
        if hidden is None:
            return logits.softmax(-1).to(v.dtype) @ v
        weights = logits.masked_fill(hidden[:, :, None], torch.finfo(logits.dtype).min).softmax(-1)
        return weights.masked_fill(hidden[:, :, None], 0).to(v.dtype) @ v
    if hidden is None:
        return F.scaled_dot_product_attention(q, k, v, scale=scale)
    # A region that sees nothing looks at the zeros under the mask, and so gets 0.
    seen = ~hidden | hidden.all(-1, keepdim=True)
    return F.scaled_dot_product_attention(q, k, v, seen[:, :, None].expand(-1, -1, q.shape[2], -1), scale=scale)
