"""Bi-level routed attention in plain PyTorch: the definition. Every backend has to agree with it.

Letters: see `regions.py`.
"""

import torch
from torch import Tensor

from ..tensors import wide_dtype
from .regions import Grid, Routing, from_regions, no_autocast, to_regions


def bi_level_routing_attention_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lepe: Tensor | None,
    mask: Tensor | None,
    routing: Routing,
    grid: Grid,
    scale: float,
) -> Tensor:
    """Softmax attention of every token over all tokens of the regions that its own region is routed to.

    Any device and floating dtype; differentiable any number of times, forward mode too. 16-bit input is computed in
    float32. Arguments are taken as checked (`arguments.check`).

    Args:
        q: (B, H, W, N, D).
        k, v: (B, H', W', N, D) and (B, H', W', N, E).
        lepe: None or (B, H, W, N, E), added to the output.
        mask: None or (B, H', W') bool, True for the keys that count. A query that sees none gets 0, and `lepe`.
        routing: regions of each region, and factors on their keys and values.
        grid: rows and columns of regions of both maps.

    Returns:
        (B, H, W, N, E) in the dtype of `q`.
    """
    wide, size = wide_dtype(q), (q.shape[1], q.shape[2])
    batch = torch.arange(q.shape[0], device=q.device)[:, None, None]
    if mask is not None:  # what lies under the mask must not matter, not even a NaN
        k, v = (x.masked_fill(~mask[..., None, None], 0) for x in (k, v))
    with no_autocast(q.device):
        queries = to_regions(q.to(wide), grid)  # B R T N D
        keys, values = (to_regions(x.to(wide), grid)[batch, routing.index] for x in (k, v))  # B R K U N D or E
        if routing.weights is not None:
            factor = routing.weights.to(wide)[..., None, None, None]
            keys, values = keys * factor, values * factor
        logits = torch.einsum("brtnd,brkund->brntku", queries * scale, keys).flatten(-2)
        if mask is None:
            weights = logits.softmax(-1)
        else:
            hidden = ~to_regions(mask, grid)[batch, routing.index].flatten(-2)[:, :, None, None]
            weights = logits.masked_fill(hidden, torch.finfo(wide).min).softmax(-1).masked_fill(hidden, 0)
        out = torch.einsum("brntk,brkne->brtne", weights, values.flatten(2, 3))
    out = from_regions(out, grid, size)
    return (out if lepe is None else out + lepe).to(q.dtype)
