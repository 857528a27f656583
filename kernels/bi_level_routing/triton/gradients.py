"""The gradients of bi-level routed attention in Triton: queries by their region, keys and values by theirs.

A region of keys gathers from all regions of queries that are routed to it, in the order of a list that is sorted once a
call: nothing is atomic, and every sum has one order.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...triton_launch import Launch, upcast
from ...triton_rows import load_rows, products, store_rows
from .attention import SIZES, key_place, map_place, named, sizes, strides
from .tiling import tiling


@triton.jit(do_not_specialize=[*named("q", "k", "v", "do"), *SIZES, "first_batch"])
def query_gradient_kernel(
    d_out, query, key, value, delta, top, share, mask, index, factor, d_query, d_factor,
    q_b, q_0, q_1, q_h, k_b, k_0, k_1, k_h, v_b, v_0, v_1, v_h, do_b, do_0, do_1, do_h,
    columns, q_high, q_wide, k_high, k_wide, regions, topk, heads, tiles, first_batch, scale,
    D: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr, UNIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program: one tile of a region's queries, one head, one batch item, one block of D.

    Two walks over the keys. The first is for what a row's weights and their gradients hang on, which the key gradient
    wants too: `top`, the largest score (base 2), `share`, 1 / the sum of exponentials, and `delta`, the sum of P dP.
    (The forward's LSE is their sum, rounded: of large scores too coarse.)
    `d_factor` (B, R, tiles, N, K * U): what each key in the list adds to the gradient of its region's weight.
    """
    LOG2E: tl.constexpr = 1.4426950408889634
    program = tl.program_id(0)
    block = tl.program_id(1)
    head = (program % heads).to(tl.int64)
    tile = program // heads % tiles
    region = program // heads // tiles % regions
    batch = (program // heads // tiles // regions + first_batch).to(tl.int64)
    token = tile * TILE + tl.arange(0, TILE)
    inside = token < q_high * q_wide
    row, column = map_place(region, token, columns, q_high, q_wide)
    query += (batch * q_b + head * q_h) * UNIT
    query_rows = (row * q_0.to(tl.int64) + column * q_1.to(tl.int64)) * UNIT
    queries = load_rows(query, query_rows, inside, 0, D, BLOCK_D, UPCAST)
    d_out += (batch * do_b + head * do_h) * UNIT
    d_out_rows = (row * do_0.to(tl.int64) + column * do_1.to(tl.int64)) * UNIT
    d_outs = load_rows(d_out, d_out_rows, inside, 0, E, BLOCK_E, UPCAST)
    key += (batch * k_b + head * k_h) * UNIT
    value += (batch * v_b + head * v_h) * UNIT
    index += (batch * regions + region) * topk
    factor += (batch * regions + region) * topk
    keys_of_region = k_high * k_wide
    mask += batch * regions * keys_of_region
    count = topk * keys_of_region
    d_factor += (((batch * regions + region) * tiles + tile) * heads + head) * count
    spot = ((batch * regions * q_high * q_wide) + row * (columns * q_wide) + column) * heads + head

    deltas = tl.zeros((TILE,), tl.float32)
    tops = tl.full((TILE,), -1.0e30, tl.float32)
    sums = tl.zeros((TILE,), tl.float32)
    shares = tl.zeros((TILE,), tl.float32)  # 1 / sums
    d_queries = tl.zeros((TILE, BLOCK_D), tl.float32)
    for walk in tl.static_range(0, 2):
        for first in range(0, count, CHUNK):
            place = first + tl.arange(0, CHUNK)
            key_row, key_column, there = key_place(index, mask, place, count, columns, k_high, k_wide, regions, MASKED)
            key_rows = (key_row * k_0.to(tl.int64) + key_column * k_1.to(tl.int64)) * UNIT
            value_rows = (key_row * v_0.to(tl.int64) + key_column * v_1.to(tl.int64)) * UNIT
            keys = load_rows(key, key_rows, there, 0, D, BLOCK_D, UPCAST)
            plain = products(queries, query, query_rows, inside, keys, key, key_rows, there, D, BLOCK_D, UPCAST) * scale
            values = load_rows(value, value_rows, there, 0, E, BLOCK_E, UPCAST)
            through = products(d_outs, d_out, d_out_rows, inside, values, value, value_rows, there, E, BLOCK_E, UPCAST)
            if WEIGHTED:
                factors = tl.load(factor + place // keys_of_region, mask=there, other=0.0)[None, :]
                scores, d_weights = plain * factors, through * factors
            else:
                scores, d_weights = plain, through
            scores = tl.where(there[None, :], scores * LOG2E, float("-inf"))
            if walk == 0:
                new_tops = tl.maximum(tops, tl.max(scores, 1))
                weights = tl.math.exp2(scores - new_tops[:, None])
                fade = tl.math.exp2(tops - new_tops)
                sums = sums * fade + tl.sum(weights, 1)
                deltas = deltas * fade + tl.sum(weights * d_weights, 1)
                tops = new_tops
            else:
                weights = tl.math.exp2(scores - tops[:, None]) * shares[:, None]
                d_scores = weights * (d_weights - deltas[:, None])
                if WEIGHTED:
                    of_keys = tl.where(inside[:, None], d_scores * plain + weights * through, 0.0)
                    tl.store(d_factor + place, tl.sum(of_keys, 0), mask=(place < count) & (block == 0))
                    d_scores *= factors
                if D > BLOCK_D:
                    keys = load_rows(key, key_rows, there, block * BLOCK_D, D, BLOCK_D, UPCAST)
                d_queries += tl.dot(d_scores.to(keys.dtype), keys, input_precision="ieee")
        if walk == 0:
            sees = sums > 0  # else every key is masked
            shares = tl.where(sees, 1.0 / tl.where(sees, sums, 1.0), 0.0)
            tops = tl.where(sees, tops, 0.0)
            deltas *= shares
    tl.store(delta + spot, deltas, mask=inside & (block == 0))
    tl.store(top + spot, tops, mask=inside & (block == 0))
    tl.store(share + spot, shares, mask=inside & (block == 0))
    store_rows(d_query, spot * D, inside, block * BLOCK_D, d_queries * scale, D, BLOCK_D)


@triton.jit(do_not_specialize=[*named("q", "k", "v", "do"), *SIZES, "first_batch"])
def key_gradient_kernel(
    d_out, query, key, value, delta, top, share, mask, factor, order, starts, d_key, d_value,
    q_b, q_0, q_1, q_h, k_b, k_0, k_1, k_h, v_b, v_0, v_1, v_h, do_b, do_0, do_1, do_h,
    columns, q_high, q_wide, k_high, k_wide, regions, topk, heads, tiles, first_batch, scale,
    D: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr, UNIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program: one tile of a region's keys, one head, one batch item, one block of D and of E.

    `order` (B, R * K): the choices of a picture, sorted by the region chosen; `starts` (B, R + 1): where the choices of
    each region begin. Scores stand keys by queries, so that both gradients are plain products.
    """
    LOG2E: tl.constexpr = 1.4426950408889634
    program = tl.program_id(0)
    block = tl.program_id(1)
    head = (program % heads).to(tl.int64)
    tile = program // heads % tiles
    region = program // heads // tiles % regions
    batch = (program // heads // tiles // regions + first_batch).to(tl.int64)
    token = tile * TILE + tl.arange(0, TILE)
    inside = token < k_high * k_wide
    row, column = map_place(region, token, columns, k_high, k_wide)
    on_map = row * (columns * k_wide) + column
    seen = inside
    if MASKED:
        seen = seen & (tl.load(mask + batch * regions * (k_high * k_wide) + on_map, mask=inside, other=0) != 0)
    key += (batch * k_b + head * k_h) * UNIT
    value += (batch * v_b + head * v_h) * UNIT
    key_rows = (row * k_0.to(tl.int64) + column * k_1.to(tl.int64)) * UNIT
    value_rows = (row * v_0.to(tl.int64) + column * v_1.to(tl.int64)) * UNIT
    keys = load_rows(key, key_rows, seen, 0, D, BLOCK_D, UPCAST)
    values = load_rows(value, value_rows, seen, 0, E, BLOCK_E, UPCAST)
    query += (batch * q_b + head * q_h) * UNIT
    d_out += (batch * do_b + head * do_h) * UNIT
    queries_of_region = q_high * q_wide
    first_spot = batch * regions * queries_of_region
    begin = tl.load(starts + batch * (regions + 1) + region).to(tl.int32)
    end = tl.load(starts + batch * (regions + 1) + region + 1).to(tl.int32)
    order += batch * regions * topk + begin
    factor += batch * regions * topk
    count = (end - begin) * queries_of_region
    d_keys = tl.zeros((TILE, BLOCK_D), tl.float32)
    d_values = tl.zeros((TILE, BLOCK_E), tl.float32)
    for first in range(0, count, CHUNK):
        place = first + tl.arange(0, CHUNK)
        there = place < count
        choice = tl.load(order + place // queries_of_region, mask=there, other=0).to(tl.int32)
        query_row, query_column = map_place(choice // topk, place % queries_of_region, columns, q_high, q_wide)
        query_rows = (query_row * q_0.to(tl.int64) + query_column * q_1.to(tl.int64)) * UNIT
        d_out_rows = (query_row * do_0.to(tl.int64) + query_column * do_1.to(tl.int64)) * UNIT
        spot = (first_spot + query_row * (columns * q_wide) + query_column) * heads + head
        tops = tl.load(top + spot, mask=there, other=0.0)
        shares = tl.load(share + spot, mask=there, other=0.0)
        deltas = tl.load(delta + spot, mask=there, other=0.0)
        queries = load_rows(query, query_rows, there, 0, D, BLOCK_D, UPCAST)
        scores = products(keys, key, key_rows, seen, queries, query, query_rows, there, D, BLOCK_D, UPCAST)
        d_outs = load_rows(d_out, d_out_rows, there, 0, E, BLOCK_E, UPCAST)
        d_weights = products(values, value, value_rows, seen, d_outs, d_out, d_out_rows, there, E, BLOCK_E, UPCAST)
        scores *= scale * LOG2E
        if WEIGHTED:
            factors = tl.load(factor + choice, mask=there, other=0.0)[None, :]
            scores, d_weights = scores * factors, d_weights * factors
        weights = tl.where(seen[:, None] & there[None, :], tl.math.exp2(scores - tops[None, :]) * shares[None, :], 0.0)
        d_scores = weights * (d_weights - deltas[None, :])
        if WEIGHTED:
            weights, d_scores = weights * factors, d_scores * factors
        if E > BLOCK_E:
            d_outs = load_rows(d_out, d_out_rows, there, block * BLOCK_E, E, BLOCK_E, UPCAST)
        d_values += tl.dot(weights.to(d_outs.dtype), d_outs, input_precision="ieee")
        if D > BLOCK_D:
            queries = load_rows(query, query_rows, there, block * BLOCK_D, D, BLOCK_D, UPCAST)
        d_keys += tl.dot(d_scores.to(queries.dtype), queries, input_precision="ieee")
    spot = (batch * regions * (k_high * k_wide) + on_map) * heads + head
    store_rows(d_key, spot * D, inside, block * BLOCK_D, d_keys * scale, D, BLOCK_D)
    store_rows(d_value, spot * E, inside, block * BLOCK_E, d_values, E, BLOCK_E)


def _common(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    index: Tensor,
    weights: Tensor | None,
    grid: tuple[int, int],
    scale: float,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Arguments and constants that both kernels take, the tiles apart."""
    given, unit = strides(q=q, k=k, v=v, do=d_out)
    arguments = {
        "d_out": d_out, "query": q, "key": k, "value": v, "delta": rows[0], "top": rows[1], "share": rows[2],
        "mask": index if mask is None else mask, "factor": rows if weights is None else weights, **given,
        **sizes(q, k, index, grid), "scale": float(scale),
    }  # fmt: skip
    constants = {
        "D": q.shape[-1], "E": v.shape[-1], "MASKED": mask is not None, "WEIGHTED": weights is not None, "UNIT": unit,
        "UPCAST": upcast(q),
    }  # fmt: skip
    return arguments, constants


def _launch(kernel, tokens: int, arguments: dict, constants: dict, blocks_of_values: bool) -> Launch:
    q, D, E = arguments["query"], constants["D"], constants["E"]
    tiles = tiling(tokens, D, E, q.element_size(), backward=True)
    arguments["tiles"] = -(-tokens // tiles.tile)
    constants |= {
        "TILE": tiles.tile, "CHUNK": tiles.chunk, "BLOCK_D": tiles.channels, "BLOCK_E": tiles.value_channels,
    }  # fmt: skip
    blocks = -(-D // tiles.channels)
    if blocks_of_values:
        blocks = max(blocks, -(-E // tiles.value_channels))
    programs = arguments["heads"] * arguments["tiles"] * arguments["regions"]
    return Launch(kernel, programs, blocks, q.shape[0], arguments, constants, tiles.warps, tiles.stages)


def query_gradient_launch(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    index: Tensor,
    weights: Tensor | None,
    grid: tuple[int, int],
    scale: float,
    d_q: Tensor,
) -> Launch:
    """Writes `d_q`, `rows` (3, B, H, W, N) and, with weights, `d_factor` (B, R, tiles, N, K, U); float32."""
    arguments, constants = _common(d_out, q, k, v, rows, mask, index, weights, grid, scale)
    tokens = arguments["q_high"] * arguments["q_wide"]
    launch = _launch(query_gradient_kernel, tokens, arguments, constants, False)
    shares = rows
    if weights is not None:
        batch, regions, topk = index.shape
        keys = arguments["k_high"] * arguments["k_wide"]
        shape = batch, regions, arguments["tiles"], arguments["heads"], topk, keys
        shares = torch.empty(shape, dtype=torch.float32, device=q.device)
    arguments |= {"index": index, "d_query": d_q, "d_factor": shares}
    return launch


def key_gradient_launch(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    mask: Tensor | None,
    index: Tensor,
    weights: Tensor | None,
    grid: tuple[int, int],
    scale: float,
    d_k: Tensor,
    d_v: Tensor,
) -> Launch:
    """Writes `d_k` and `d_v`; `rows` are the query gradient's."""
    arguments, constants = _common(d_out, q, k, v, rows, mask, index, weights, grid, scale)
    chosen, order = index.flatten(1).sort(dim=1, stable=True)
    numbers = torch.arange(index.shape[1] + 1, device=index.device).expand(index.shape[0], -1).contiguous()
    starts = torch.searchsorted(chosen, numbers)
    arguments |= {"order": order, "starts": starts, "d_key": d_k, "d_value": d_v}
    tokens = arguments["k_high"] * arguments["k_wide"]
    return _launch(key_gradient_kernel, tokens, arguments, constants, True)


def backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    index: Tensor,
    weights: Tensor | None,
    grid: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of q, k, v and the weights, an empty one without weights; see `operators.py`."""
    d_q, d_k, d_v = (torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q, k, v))
    d_weights = torch.zeros(0 if weights is None else weights.shape, dtype=torch.float32, device=q.device)
    if lse.numel():
        mask = None if mask is None else mask.contiguous()
        index = index.contiguous()
        rows = torch.empty(3, *lse.shape, dtype=torch.float32, device=lse.device)
        given = mask, index, weights, grid, scale
        launch = query_gradient_launch(d_out, q, k, v, rows, *given, d_q)
        launch.run()
        if weights is not None:
            d_weights = launch.arguments["d_factor"].sum((2, 3, 5))
        key_gradient_launch(d_out, q, k, v, rows, *given, d_k, d_v).run()
    return d_q, d_k, d_v, d_weights
