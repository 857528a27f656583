"""Neighborhood attention forward in Triton: a tile of queries against the exact halo of its keys, online softmax."""

import torch
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
from .tiling import Axes, axes_of, tiling
from .windows import chunk_places, key_range, locate, seen_bits, tile_places, unpack_bits

INTEGERS = names(
    five("q"), five("k"), five("v"), ("ek_b", "ek_m", "ek_h", "ev_b", "ev_m", "ev_h"), three("bias_"),
    three("size"), three("dil"), three("line"), three("tiles"), ("heads", "repeat", "extra", "bias_h", "first_batch"),
)  # fmt: skip


@triton.jit
def _attend(scores, seen, values, total, top, sums):
    """One more block of keys: weighted sum of values, running maximum (base 2) and sum of exponentials."""
    scores = tl.where(seen, scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))  # never -inf: top starts at a finite number
    weights = tl.math.exp2(scores - new_top[:, None])
    fade = tl.math.exp2(top - new_top)
    sums = sums * fade + tl.sum(weights, 1)
    total = total * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    return total, new_top, sums


@triton.jit(do_not_specialize=INTEGERS)
def forward_kernel(
    query, key, value, bias, extra_keys, extra_values, out, lse,
    q_b, q_0, q_1, q_2, q_h, k_b, k_0, k_1, k_2, k_h, v_b, v_0, v_1, v_2, v_h,
    ek_b, ek_m, ek_h, ev_b, ev_m, ev_h, bias_h, bias_0, bias_1, bias_2,
    size0, size1, size2, dil0, dil1, dil2, line0, line1, line2, tiles0, tiles1, tiles2,
    heads, repeat, extra, first_batch, scale,
    D: tl.constexpr, E: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
    S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr,
    T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BIAS: tl.constexpr, EXTRA: tl.constexpr,
    UNIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program: one tile, one head, one batch item, one block of E. Neighbouring programs are heads of one tile."""
    LOG2E: tl.constexpr = 1.4426950408889634
    LN2: tl.constexpr = 0.6931471805599453
    program = tl.program_id(0)
    value_block = tl.program_id(1)
    head = program % heads
    tiles = tiles0 * tiles1 * tiles2 * dil0 * dil1 * dil2
    tile = program // heads % tiles
    batch = (program // heads // tiles + first_batch).to(tl.int64)
    kv_head = head // repeat
    group0, group1, group2, n0, n1, n2, first0, first1, first2 = locate(
        tile, size0, size1, size2, dil0, dil1, dil2, tiles0, tiles1, tiles2, T0, T1, T2
    )
    if (first0 >= n0) | (first1 >= n1) | (first2 >= n2):  # this dilation group is shorter than the longest
        return

    # 64-bit from here: a packed qkv map of many frames has more elements than 32 bits count.
    query += (batch * q_b + head * q_h.to(tl.int64)) * UNIT
    key += (batch * k_b + kv_head * k_h.to(tl.int64)) * UNIT
    value += (batch * v_b + kv_head * v_h.to(tl.int64)) * UNIT
    place0, place1, place2, inside = tile_places(first0, first1, first2, n0, n1, n2, T0, T1, T2)
    token0, token1, token2 = group0 + dil0 * place0, group1 + dil1 * place1, group2 + dil2 * place2
    query_rows = (token0 * q_0.to(tl.int64) + token1 * q_1.to(tl.int64) + token2 * q_2.to(tl.int64)) * UNIT
    queries = load_rows(query, query_rows, inside, 0, D, BLOCK_D, UPCAST)
    start0, end0 = key_range(place0, n0, K0, S0, C0)
    start1, end1 = key_range(place1, n1, K1, S1, C1)
    start2, end2 = key_range(place2, n2, K2, S2, C2)

    total = tl.zeros((T0 * T1 * T2, BLOCK_E), tl.float32)
    top = tl.full((T0 * T1 * T2,), -1.0e30, tl.float32)
    sums = tl.zeros((T0 * T1 * T2,), tl.float32)
    if EXTRA:
        extra_keys += (batch * ek_b + kv_head * ek_h.to(tl.int64)) * UNIT
        extra_values += (batch * ev_b + kv_head * ev_h.to(tl.int64)) * UNIT
        for first in range(0, extra, ROWS * COLUMNS):
            token = first + tl.arange(0, ROWS * COLUMNS)
            there = token < extra
            key_rows, value_rows = token * ek_m.to(tl.int64) * UNIT, token * ev_m.to(tl.int64) * UNIT
            keys = load_rows(extra_keys, key_rows, there, 0, D, BLOCK_D, UPCAST)
            scores = products(queries, query, query_rows, inside, keys, extra_keys, key_rows, there, D, BLOCK_D, UPCAST)
            values = load_rows(extra_values, value_rows, there, value_block * BLOCK_E, E, BLOCK_E, UPCAST)
            total, top, sums = _attend(scores * (scale * LOG2E), there[None, :], values, total, top, sums)

    # The halo: from the first key of the first query to the last key of the last.
    from0, _ = key_range(first0, n0, K0, S0, C0)
    from1, _ = key_range(first1, n1, K1, S1, C1)
    from2, _ = key_range(first2, n2, K2, S2, C2)
    _, to0 = key_range(tl.minimum(first0 + (T0 - 1), n0 - 1), n0, K0, S0, C0)
    _, to1 = key_range(tl.minimum(first1 + (T1 - 1), n1 - 1), n1, K1, S1, C1)
    _, to2 = key_range(tl.minimum(first2 + (T2 - 1), n2 - 1), n2, K2, S2, C2)
    blocks1 = (to1 - from1 + (ROWS - 1)) // ROWS
    blocks2 = (to2 - from2 + (COLUMNS - 1)) // COLUMNS
    key += (group0 * k_0.to(tl.int64) + group1 * k_1.to(tl.int64) + group2 * k_2.to(tl.int64)) * UNIT
    value += (group0 * v_0.to(tl.int64) + group1 * v_1.to(tl.int64) + group2 * v_2.to(tl.int64)) * UNIT
    k_0, k_1, k_2 = dil0 * k_0.to(tl.int64), dil1 * k_1.to(tl.int64), dil2 * k_2.to(tl.int64)
    v_0, v_1, v_2 = dil0 * v_0.to(tl.int64), dil1 * v_1.to(tl.int64), dil2 * v_2.to(tl.int64)
    if BIAS:
        bias += head * bias_h + (K0 - 1) * bias_0 + (K1 - 1) * bias_1 + (K2 - 1) * bias_2
        query_bias = place0 * bias_0 + place1 * bias_1 + place2 * bias_2
    for chunk in range(0, (to0 - from0) * blocks1 * blocks2):
        key0, key1, key2, there = chunk_places(chunk, blocks1, blocks2, from0, from1, from2, to1, to2, ROWS, COLUMNS)
        key_rows = (key0 * k_0 + key1 * k_1 + key2 * k_2) * UNIT
        value_rows = (key0 * v_0 + key1 * v_1 + key2 * v_2) * UNIT
        keys = load_rows(key, key_rows, there, 0, D, BLOCK_D, UPCAST)
        scores = products(queries, query, query_rows, inside, keys, key, key_rows, there, D, BLOCK_D, UPCAST)
        bits = seen_bits(
            chunk, blocks1, blocks2, from0, from1, from2, start0, end0, start1, end1, start2, end2, ROWS, COLUMNS
        )
        seen = unpack_bits(bits, ROWS * COLUMNS)
        if BIAS:
            entry = (key0 * bias_0 + key1 * bias_1 + key2 * bias_2)[None, :] - query_bias[:, None]
            scores = (scores * scale + tl.load(bias + entry, mask=seen, other=0.0)) * LOG2E
        else:
            scores = scores * (scale * LOG2E)
        values = load_rows(value, value_rows, there, value_block * BLOCK_E, E, BLOCK_E, UPCAST)
        total, top, sums = _attend(scores, seen, values, total, top, sums)

    row = ((batch * size0 * size1 * size2) + token0 * line0 + token1 * line1 + token2 * line2) * heads + head
    store_rows(out, row * E, inside, value_block * BLOCK_E, total / sums[:, None], E, BLOCK_E)
    tl.store(lse + row, (top + tl.math.log2(sums)) * LN2, mask=inside & (value_block == 0))


def forward_launch(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_bias: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    axes: Axes,
    scale: float,
    out: Tensor,
    lse: Tensor,
) -> Launch:
    """Writes `out` and `lse`, both contiguous, as is `rel_pos_bias`."""
    heads, channels = query.shape[-2:]
    value_channels = value.shape[-1]
    tiles = tiling(axes, "forward", channels, value_channels, query.element_size(), rel_pos_bias is not None)
    strides = Strides(axes, q=query, k=key, v=value)
    extra = strides.add_extra(additional_keys, additional_values)
    arguments = {
        "query": query, "key": key, "value": value, "out": out, "lse": lse,
        "extra_keys": additional_keys if extra else key, "extra_values": additional_values if extra else value,
        **strides.divided(), **map_arguments(axes, tiles.tile),
        **bias_arguments(axes, rel_pos_bias, lse),
        "heads": heads, "repeat": heads // key.shape[-2], "extra": extra, "scale": float(scale),
    }  # fmt: skip
    constants = {
        "D": channels, "E": value_channels, **window_constants(axes), **tile_constants(tiles),
        "BIAS": rel_pos_bias is not None, "EXTRA": extra > 0, "UNIT": strides.unit(), "UPCAST": upcast(query),
    }  # fmt: skip
    blocks = -(-value_channels // tiles.value_channels)
    return Launch(
        forward_kernel, tile_programs(axes, tiles, heads), blocks, query.shape[0], arguments, constants,
        tiles.warps, tiles.stages,
    )  # fmt: skip


def forward(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_bias: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    dilation: list[int],
    is_causal: list[int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(B, *S, H, D), (B, *S, G, D), (B, *S, G, E) -> (B, *S, H, E) and the LSE (B, *S, H), float32."""
    out = torch.empty(*query.shape[:-1], value.shape[-1], dtype=query.dtype, device=query.device)
    lse = torch.empty(query.shape[:-1], dtype=torch.float32, device=query.device)
    if lse.numel():
        axes = axes_of(query.shape[1:-2], kernel_size, stride, dilation, is_causal)
        bias = None if rel_pos_bias is None else rel_pos_bias.contiguous()
        extras = additional_keys, additional_values
        forward_launch(query, key, value, bias, *extras, axes, scale, out, lse).run()
    return out, lse
