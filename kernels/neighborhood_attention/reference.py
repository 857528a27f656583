"""Neighborhood attention in plain PyTorch: the definition. Every backend has to agree with it.

Letters, here and in the files beside this one: B batch, S one to three spatial axes, H heads, G key/value heads (each
serves H / G query heads in a row), D channels a head of queries and keys, E channels a head of values, M additional
tokens, N = product of S, K = product of the kernel's sizes.
"""

import torch
from torch import Tensor

from ..tensors import wide_dtype
from .windows import Window, neighbors

# Keys and values gathered at a time, in elements: queries are taken in slices, so that a large map fits in memory.
GATHERED_ELEMENTS = 1 << 24


def neighborhood_attention_reference(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_bias: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    window: Window,
    scale: float,
) -> tuple[Tensor, Tensor]:
    """Softmax attention of every query over its window, and over the additional tokens where there are any.

    Any device and floating dtype; differentiable any number of times, forward mode too. 16-bit input is computed in
    float32. Arguments are taken as checked (`arguments.check`).

    Args:
        query: (B, *S, H, D).
        key, value: (B, *S, G, D) and (B, *S, G, E).
        rel_pos_bias: None or (H, 2 * k - 1 for every axis), added to the scaled scores; see `windows.AxisKeys.offset`.
        additional_keys, additional_values: None or (B, M, G, D) and (B, M, G, E), seen by every query.

    Returns:
        (B, *S, H, E) in the dtype of `query`, and the natural logarithm of the softmax's denominator, (B, *S, H) in
        float32 (float64 for float64).
    """
    batch, *spatial, heads, _ = query.shape
    groups = key.shape[-2]
    ratio = heads // groups if groups else 1
    wide = wide_dtype(query)
    q = query.to(wide).flatten(1, -3).unflatten(-2, (groups, ratio))  # B N G R D, R = H / G (`ratio`)
    k, v = key.to(wide).flatten(1, -3), value.to(wide).flatten(1, -3)  # B N G D or E
    index, seen, offset = neighbors(tuple(spatial), window, query.device)
    bias = None if rel_pos_bias is None else rel_pos_bias.to(wide).flatten(1).unflatten(0, (groups, ratio))

    per_query = batch * groups * (key.shape[-1] + value.shape[-1]) * index.shape[1]
    rows = max(1, GATHERED_ELEMENTS // max(1, per_query))
    outs, lses = [], []
    for i in range(0, max(1, index.shape[0]), rows):
        some = slice(i, i + rows)
        logits = torch.einsum("bngrd,bnkgd->bngrk", q[:, some] * scale, k[:, index[some]])
        if bias is not None:
            logits = logits + bias[:, :, offset[some]].permute(2, 0, 1, 3)
        logits = logits.masked_fill(~seen[some][None, :, None, None], float("-inf"))
        if additional_keys is not None:
            extra = torch.einsum("bngrd,bmgd->bngrm", q[:, some] * scale, additional_keys.to(wide))
            logits = torch.cat([logits, extra], dim=-1)
        lse = logits.logsumexp(dim=-1)
        weights = (logits - lse[..., None]).exp()
        inside = weights[..., : index.shape[1]]
        out = torch.einsum("bngrk,bnkge->bngre", inside, v[:, index[some]])
        if additional_values is not None:
            out = out + torch.einsum("bngrm,bmge->bngre", weights[..., index.shape[1] :], additional_values.to(wide))
        outs.append(out.flatten(2, 3))
        lses.append(lse.flatten(2, 3))
    out = torch.cat(outs, dim=1).to(query.dtype).unflatten(1, spatial)
    return out, torch.cat(lses, dim=1).unflatten(1, spatial)
