"""Gradients of keys and values in Triton: a tile of keys gathers from all queries that see it, so nothing is atomic."""

import triton
import triton.language as tl
from torch import Tensor

from ...triton_launch import Launch, upcast
from ...triton_rows import load_rows, products, store_rows
from .launch import (
    Strides,
    bias_arguments,
    five,
    map_arguments,
    names,
    three,
    tile_constants,
    tile_programs,
    window_constants,
)
from .tiling import Axes, tiling
from .windows import chunk_places, locate, query_range, seen_bits, tile_places, unpack_bits

INTEGERS = names(
    five("q"), five("k"), five("v"), five("do"), three("bias_"), three("size"), three("dil"), three("line"),
    three("tiles"), ("heads", "repeat", "bias_h", "first_batch"),
)  # fmt: skip


@triton.jit(do_not_specialize=INTEGERS)
def key_gradient_kernel(
    d_out, query, key, value, lse, delta, bias, d_key, d_value,
    q_b, q_0, q_1, q_2, q_h, k_b, k_0, k_1, k_2, k_h, v_b, v_0, v_1, v_2, v_h, do_b, do_0, do_1, do_2, do_h,
    bias_h, bias_0, bias_1, bias_2,
    size0, size1, size2, dil0, dil1, dil2, line0, line1, line2, tiles0, tiles1, tiles2,
    heads, repeat, first_batch, scale,
    D: tl.constexpr, E: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
    S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr,
    T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BIAS: tl.constexpr, UNIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program: one tile of keys, one key/value head, one batch item, one block of D and of E.

    `heads` counts key/value heads here, `repeat` the query heads of each. Scores stand keys by queries, so that both
    gradients are plain products.
    """
    LOG2E: tl.constexpr = 1.4426950408889634
    program = tl.program_id(0)
    block = tl.program_id(1)
    kv_head = program % heads
    tiles = tiles0 * tiles1 * tiles2 * dil0 * dil1 * dil2
    tile = program // heads % tiles
    batch = (program // heads // tiles + first_batch).to(tl.int64)
    group0, group1, group2, n0, n1, n2, first0, first1, first2 = locate(
        tile, size0, size1, size2, dil0, dil1, dil2, tiles0, tiles1, tiles2, T0, T1, T2
    )
    if (first0 >= n0) | (first1 >= n1) | (first2 >= n2):
        return

    query += (batch * q_b + kv_head * repeat * q_h.to(tl.int64)) * UNIT
    d_out += (batch * do_b + kv_head * repeat * do_h.to(tl.int64)) * UNIT
    key += (batch * k_b + kv_head * k_h.to(tl.int64)) * UNIT
    value += (batch * v_b + kv_head * v_h.to(tl.int64)) * UNIT
    place0, place1, place2, inside = tile_places(first0, first1, first2, n0, n1, n2, T0, T1, T2)
    token0, token1, token2 = group0 + dil0 * place0, group1 + dil1 * place1, group2 + dil2 * place2
    key_rows = (token0 * k_0.to(tl.int64) + token1 * k_1.to(tl.int64) + token2 * k_2.to(tl.int64)) * UNIT
    value_rows = (token0 * v_0.to(tl.int64) + token1 * v_1.to(tl.int64) + token2 * v_2.to(tl.int64)) * UNIT
    keys = load_rows(key, key_rows, inside, 0, D, BLOCK_D, UPCAST)
    values = load_rows(value, value_rows, inside, 0, E, BLOCK_E, UPCAST)
    start0, end0 = query_range(place0, place0, n0, K0, S0, C0)
    start1, end1 = query_range(place1, place1, n1, K1, S1, C1)
    start2, end2 = query_range(place2, place2, n2, K2, S2, C2)

    from0, to0 = query_range(first0, tl.minimum(first0 + (T0 - 1), n0 - 1), n0, K0, S0, C0)
    from1, to1 = query_range(first1, tl.minimum(first1 + (T1 - 1), n1 - 1), n1, K1, S1, C1)
    from2, to2 = query_range(first2, tl.minimum(first2 + (T2 - 1), n2 - 1), n2, K2, S2, C2)
    blocks1 = (to1 - from1 + (ROWS - 1)) // ROWS
    blocks2 = (to2 - from2 + (COLUMNS - 1)) // COLUMNS
    chunks = (to0 - from0) * blocks1 * blocks2
    query += (group0 * q_0.to(tl.int64) + group1 * q_1.to(tl.int64) + group2 * q_2.to(tl.int64)) * UNIT
    d_out += (group0 * do_0.to(tl.int64) + group1 * do_1.to(tl.int64) + group2 * do_2.to(tl.int64)) * UNIT
    q_0, q_1, q_2 = dil0 * q_0.to(tl.int64), dil1 * q_1.to(tl.int64), dil2 * q_2.to(tl.int64)
    do_0, do_1, do_2 = dil0 * do_0.to(tl.int64), dil1 * do_1.to(tl.int64), dil2 * do_2.to(tl.int64)
    all_heads = heads * repeat
    in_batch = batch * size0 * size1 * size2
    first_row = (in_batch + group0 * line0 + group1 * line1 + group2 * line2) * all_heads + kv_head * repeat
    row_0, row_1, row_2 = (dil0 * line0).to(tl.int64), (dil1 * line1).to(tl.int64), (dil2 * line2).to(tl.int64)
    row_0, row_1, row_2 = row_0 * all_heads, row_1 * all_heads, row_2 * all_heads
    if BIAS:
        bias += kv_head * repeat * bias_h + (K0 - 1) * bias_0 + (K1 - 1) * bias_1 + (K2 - 1) * bias_2
        key_bias = place0 * bias_0 + place1 * bias_1 + place2 * bias_2
    d_keys = tl.zeros((T0 * T1 * T2, BLOCK_D), tl.float32)
    d_values = tl.zeros((T0 * T1 * T2, BLOCK_E), tl.float32)
    for step in range(0, repeat * chunks):
        chunk = step % chunks
        head = step // chunks  # of the query heads that share this key head
        query0, query1, query2, there = chunk_places(
            chunk, blocks1, blocks2, from0, from1, from2, to1, to2, ROWS, COLUMNS
        )
        query_rows = (head * q_h.to(tl.int64) + query0 * q_0 + query1 * q_1 + query2 * q_2) * UNIT
        d_out_rows = (head * do_h.to(tl.int64) + query0 * do_0 + query1 * do_1 + query2 * do_2) * UNIT
        row = first_row + head + query0 * row_0 + query1 * row_1 + query2 * row_2
        lses = tl.load(lse + row, mask=there, other=0.0) * LOG2E
        deltas = tl.load(delta + row, mask=there, other=0.0)
        queries = load_rows(query, query_rows, there, 0, D, BLOCK_D, UPCAST)
        scores = products(keys, key, key_rows, inside, queries, query, query_rows, there, D, BLOCK_D, UPCAST)
        bits = seen_bits(
            chunk, blocks1, blocks2, from0, from1, from2, start0, end0, start1, end1, start2, end2, ROWS, COLUMNS
        )
        seen = unpack_bits(bits, ROWS * COLUMNS)
        if BIAS:
            query_bias = query0 * bias_0 + query1 * bias_1 + query2 * bias_2 - head * bias_h
            entry = key_bias[:, None] - query_bias[None, :]
            scores = (scores * scale + tl.load(bias + entry, mask=seen, other=0.0)) * LOG2E
        else:
            scores = scores * (scale * LOG2E)
        weights = tl.where(seen, tl.math.exp2(scores - lses[None, :]), 0.0)
        d_outs = load_rows(d_out, d_out_rows, there, 0, E, BLOCK_E, UPCAST)
        d_weights = products(values, value, value_rows, inside, d_outs, d_out, d_out_rows, there, E, BLOCK_E, UPCAST)
        if E > BLOCK_E:
            d_outs = load_rows(d_out, d_out_rows, there, block * BLOCK_E, E, BLOCK_E, UPCAST)
        d_values += tl.dot(weights.to(d_outs.dtype), d_outs, input_precision="ieee")
        d_scores = weights * (d_weights - deltas[None, :])
        if D > BLOCK_D:
            queries = load_rows(query, query_rows, there, block * BLOCK_D, D, BLOCK_D, UPCAST)
        d_keys += tl.dot(d_scores.to(queries.dtype), queries, input_precision="ieee")
    row = (in_batch + token0 * line0 + token1 * line1 + token2 * line2) * heads + kv_head
    store_rows(d_key, row * D, inside, block * BLOCK_D, d_keys * scale, D, BLOCK_D)
    store_rows(d_value, row * E, inside, block * BLOCK_E, d_values, E, BLOCK_E)


def key_gradient_launch(
    d_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lse: Tensor,
    delta: Tensor,
    rel_pos_bias: Tensor | None,
    axes: Axes,
    scale: float,
    d_key: Tensor,
    d_value: Tensor,
) -> Launch:
    """Writes `d_key` and `d_value`; `delta` is the query gradient's, `lse` and `rel_pos_bias` are contiguous."""
    heads, channels = key.shape[-2:]
    value_channels = value.shape[-1]
    tiles = tiling(axes, "key", channels, value_channels, query.element_size(), rel_pos_bias is not None)
    strides = Strides(axes, q=query, k=key, v=value, do=d_out)
    arguments = {
        "d_out": d_out, "query": query, "key": key, "value": value, "lse": lse, "delta": delta,
        **bias_arguments(axes, rel_pos_bias, lse), "d_key": d_key, "d_value": d_value,
        **strides.divided(), **map_arguments(axes, tiles.tile),
        "heads": heads, "repeat": query.shape[-2] // heads, "scale": float(scale),
    }  # fmt: skip
    constants = {
        "D": channels, "E": value_channels, **window_constants(axes), **tile_constants(tiles),
        "BIAS": rel_pos_bias is not None, "UNIT": strides.unit(), "UPCAST": upcast(query),
    }  # fmt: skip
    blocks = max(-(-channels // tiles.channels), -(-value_channels // tiles.value_channels))
    return Launch(
        key_gradient_kernel, tile_programs(axes, tiles, heads), blocks, query.shape[0], arguments, constants,
        tiles.warps, tiles.stages,
    )  # fmt: skip
