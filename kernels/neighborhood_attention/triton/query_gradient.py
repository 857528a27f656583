"""Gradient of the queries in Triton, tile by tile as in the forward; the rows' delta comes out with it."""

from math import prod

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...triton_launch import MAX_PROGRAMS, Launch, upcast
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
from .tiling import Axes, Tiling, power_of_two, tiling
from .windows import chunk_places, key_range, locate, seen_bits, tile_places, unpack_bits

INTEGERS = names(
    five("q"), five("k"), five("v"), five("do"), ("ek_b", "ek_m", "ek_h", "ev_b", "ev_m", "ev_h"), three("bias_"),
    three("size"), three("dil"), three("line"), three("tiles"),
    ("heads", "repeat", "extra", "bias_h", "batch_size", "slices", "first_batch"),
)  # fmt: skip


@triton.jit
def _table_sums(
    d_scores, ahead0, ahead1, ahead2, K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
    T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    TABLE_ROWS: tl.constexpr, TABLE_COLUMNS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Sums of a tile's d_scores with a chunk, by distance: (TABLE_ROWS, TABLE_COLUMNS), a row for axes 0 and 1.

    Sums along diagonals are products with matrices of zeros and ones, first over columns and then over rows of the map;
    `ahead` is the chunk's first place - the tile's. What is outside of a window is zero in d_scores, so it is of no
    matter that it may fall on an entry.
    """
    d_scores = tl.reshape(d_scores, (T0 * T1, T2, ROWS, COLUMNS))
    d_scores = tl.reshape(tl.permute(d_scores, (0, 2, 1, 3)), (T0 * T1 * ROWS, T2 * COLUMNS))
    pair = tl.arange(0, T2 * COLUMNS)
    distance = pair % COLUMNS - pair // COLUMNS + (ahead2 + (K2 - 1))
    spread = (distance[:, None] == tl.arange(0, TABLE_COLUMNS)[None, :]).to(d_scores.dtype)
    columns = tl.dot(d_scores, spread, input_precision="ieee")
    pair = tl.arange(0, T0 * T1 * ROWS)
    distance0 = ahead0 - pair // (ROWS * T1) + (K0 - 1)
    distance1 = ahead1 + pair % ROWS - pair // ROWS % T1 + (K1 - 1)
    row = distance0 * (2 * K1 - 1) + distance1
    gather = (row[None, :] == tl.arange(0, TABLE_ROWS)[:, None]).to(tl.float32)
    return tl.dot(gather, columns, input_precision=PRECISION)


@triton.jit(do_not_specialize=INTEGERS)
def query_gradient_kernel(
    d_out, d_lse, query, key, value, out, lse, bias, extra_keys, extra_values, d_query, delta, partial,
    q_b, q_0, q_1, q_2, q_h, k_b, k_0, k_1, k_2, k_h, v_b, v_0, v_1, v_2, v_h, do_b, do_0, do_1, do_2, do_h,
    ek_b, ek_m, ek_h, ev_b, ev_m, ev_h, bias_h, bias_0, bias_1, bias_2,
    size0, size1, size2, dil0, dil1, dil2, line0, line1, line2, tiles0, tiles1, tiles2,
    heads, repeat, extra, batch_size, slices, first_batch, scale,
    D: tl.constexpr, E: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
    S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr,
    T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr,
    BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, BIAS: tl.constexpr, EXTRA: tl.constexpr, D_LSE: tl.constexpr,
    D_BIAS: tl.constexpr, TABLE_ROWS: tl.constexpr, TABLE_COLUMNS: tl.constexpr, TABLE_PRECISION: tl.constexpr,
    UNIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program: one head, one block of D, every `slices`-th tile of all batch items (one tile, without D_BIAS).

    delta = sum of d_out * out - d_lse, for each row.
    """
    LOG2E: tl.constexpr = 1.4426950408889634
    program = tl.program_id(0)
    first_channel = tl.program_id(1) * BLOCK_D
    head = program % heads
    kv_head = head // repeat
    tiles = tiles0 * tiles1 * tiles2 * dil0 * dil1 * dil2
    if D_BIAS:
        table = tl.zeros((TABLE_ROWS, TABLE_COLUMNS), tl.float32)
    for work in range(program // heads, batch_size * tiles, slices):
        batch = (work // tiles).to(tl.int64)
        tile = work % tiles
        group0, group1, group2, n0, n1, n2, first0, first1, first2 = locate(
            tile, size0, size1, size2, dil0, dil1, dil2, tiles0, tiles1, tiles2, T0, T1, T2
        )
        if (first0 < n0) & (first1 < n1) & (first2 < n2):  # else the dilation group is shorter than the longest
            query_head = query + (batch * q_b + head * q_h.to(tl.int64)) * UNIT
            d_out_head = d_out + (batch * do_b + head * do_h.to(tl.int64)) * UNIT
            key_head = key + (batch * k_b + kv_head * k_h.to(tl.int64)) * UNIT
            value_head = value + (batch * v_b + kv_head * v_h.to(tl.int64)) * UNIT
            place0, place1, place2, inside = tile_places(first0, first1, first2, n0, n1, n2, T0, T1, T2)
            token0, token1, token2 = group0 + dil0 * place0, group1 + dil1 * place1, group2 + dil2 * place2
            query_rows = (token0 * q_0.to(tl.int64) + token1 * q_1.to(tl.int64) + token2 * q_2.to(tl.int64)) * UNIT
            d_out_rows = (token0 * do_0.to(tl.int64) + token1 * do_1.to(tl.int64) + token2 * do_2.to(tl.int64)) * UNIT
            row = ((batch * size0 * size1 * size2) + token0 * line0 + token1 * line1 + token2 * line2) * heads + head
            queries = load_rows(query_head, query_rows, inside, 0, D, BLOCK_D, UPCAST)
            d_outs = load_rows(d_out_head, d_out_rows, inside, 0, E, BLOCK_E, UPCAST)
            start0, end0 = key_range(place0, n0, K0, S0, C0)
            start1, end1 = key_range(place1, n1, K1, S1, C1)
            start2, end2 = key_range(place2, n2, K2, S2, C2)

            deltas = tl.sum(
                d_outs.to(tl.float32) * load_rows(out, row * E, inside, 0, E, BLOCK_E, UPCAST).to(tl.float32), 1
            )
            for first in range(BLOCK_E, E, BLOCK_E):
                part = load_rows(d_out_head, d_out_rows, inside, first, E, BLOCK_E, UPCAST).to(tl.float32)
                deltas += tl.sum(part * load_rows(out, row * E, inside, first, E, BLOCK_E, UPCAST).to(tl.float32), 1)
            if D_LSE:
                deltas -= tl.load(d_lse + row, mask=inside, other=0.0)
            tl.store(delta + row, deltas, mask=inside & (first_channel == 0))
            lses = tl.load(lse + row, mask=inside, other=0.0) * LOG2E

            total = tl.zeros((T0 * T1 * T2, BLOCK_D), tl.float32)
            if EXTRA:
                extra_keys_head = extra_keys + (batch * ek_b + kv_head * ek_h.to(tl.int64)) * UNIT
                extra_values_head = extra_values + (batch * ev_b + kv_head * ev_h.to(tl.int64)) * UNIT
                for first in range(0, extra, ROWS * COLUMNS):
                    token = first + tl.arange(0, ROWS * COLUMNS)
                    there = token < extra
                    key_rows, value_rows = token * ek_m.to(tl.int64) * UNIT, token * ev_m.to(tl.int64) * UNIT
                    keys = load_rows(extra_keys_head, key_rows, there, 0, D, BLOCK_D, UPCAST)
                    scores = products(
                        queries,
                        query_head,
                        query_rows,
                        inside,
                        keys,
                        extra_keys_head,
                        key_rows,
                        there,
                        D,
                        BLOCK_D,
                        UPCAST,
                    )
                    values = load_rows(extra_values_head, value_rows, there, 0, E, BLOCK_E, UPCAST)
                    d_weights = products(
                        d_outs,
                        d_out_head,
                        d_out_rows,
                        inside,
                        values,
                        extra_values_head,
                        value_rows,
                        there,
                        E,
                        BLOCK_E,
                        UPCAST,
                    )
                    weights = tl.where(there[None, :], tl.math.exp2(scores * (scale * LOG2E) - lses[:, None]), 0.0)
                    d_scores = weights * (d_weights - deltas[:, None])
                    if D > BLOCK_D:
                        keys = load_rows(extra_keys_head, key_rows, there, first_channel, D, BLOCK_D, UPCAST)
                    total += tl.dot(d_scores.to(keys.dtype), keys, input_precision="ieee")

            from0, _ = key_range(first0, n0, K0, S0, C0)
            from1, _ = key_range(first1, n1, K1, S1, C1)
            from2, _ = key_range(first2, n2, K2, S2, C2)
            _, to0 = key_range(tl.minimum(first0 + (T0 - 1), n0 - 1), n0, K0, S0, C0)
            _, to1 = key_range(tl.minimum(first1 + (T1 - 1), n1 - 1), n1, K1, S1, C1)
            _, to2 = key_range(tl.minimum(first2 + (T2 - 1), n2 - 1), n2, K2, S2, C2)
            blocks1 = (to1 - from1 + (ROWS - 1)) // ROWS
            blocks2 = (to2 - from2 + (COLUMNS - 1)) // COLUMNS
            key_head += (group0 * k_0.to(tl.int64) + group1 * k_1.to(tl.int64) + group2 * k_2.to(tl.int64)) * UNIT
            value_head += (group0 * v_0.to(tl.int64) + group1 * v_1.to(tl.int64) + group2 * v_2.to(tl.int64)) * UNIT
            key_0, key_1, key_2 = dil0 * k_0.to(tl.int64), dil1 * k_1.to(tl.int64), dil2 * k_2.to(tl.int64)
            value_0, value_1, value_2 = dil0 * v_0.to(tl.int64), dil1 * v_1.to(tl.int64), dil2 * v_2.to(tl.int64)
            if BIAS:
                bias_head = bias + head * bias_h + (K0 - 1) * bias_0 + (K1 - 1) * bias_1 + (K2 - 1) * bias_2
                query_bias = place0 * bias_0 + place1 * bias_1 + place2 * bias_2
            for chunk in range(0, (to0 - from0) * blocks1 * blocks2):
                key0, key1, key2, there = chunk_places(
                    chunk, blocks1, blocks2, from0, from1, from2, to1, to2, ROWS, COLUMNS
                )
                key_rows = (key0 * key_0 + key1 * key_1 + key2 * key_2) * UNIT
                value_rows = (key0 * value_0 + key1 * value_1 + key2 * value_2) * UNIT
                keys = load_rows(key_head, key_rows, there, 0, D, BLOCK_D, UPCAST)
                scores = products(
                    queries, query_head, query_rows, inside, keys, key_head, key_rows, there, D, BLOCK_D, UPCAST
                )
                bits = seen_bits(
                    chunk,
                    blocks1,
                    blocks2,
                    from0,
                    from1,
                    from2,
                    start0,
                    end0,
                    start1,
                    end1,
                    start2,
                    end2,
                    ROWS,
                    COLUMNS,
                )
                seen = unpack_bits(bits, ROWS * COLUMNS)
                if BIAS:
                    entry = (key0 * bias_0 + key1 * bias_1 + key2 * bias_2)[None, :] - query_bias[:, None]
                    scores = (scores * scale + tl.load(bias_head + entry, mask=seen, other=0.0)) * LOG2E
                else:
                    scores = scores * (scale * LOG2E)
                weights = tl.where(seen, tl.math.exp2(scores - lses[:, None]), 0.0)
                values = load_rows(value_head, value_rows, there, 0, E, BLOCK_E, UPCAST)
                d_weights = products(
                    d_outs, d_out_head, d_out_rows, inside, values, value_head, value_rows, there, E, BLOCK_E, UPCAST
                )
                d_scores = weights * (d_weights - deltas[:, None])
                if D > BLOCK_D:
                    keys = load_rows(key_head, key_rows, there, first_channel, D, BLOCK_D, UPCAST)
                total += tl.dot(d_scores.to(keys.dtype), keys, input_precision="ieee")
                if D_BIAS:
                    table += _table_sums(
                        d_scores.to(keys.dtype), from0 + chunk // blocks2 // blocks1 - first0,
                        from1 + chunk // blocks2 % blocks1 * ROWS - first1, from2 + chunk % blocks2 * COLUMNS - first2,
                        K0, K1, K2, T0, T1, T2, ROWS, COLUMNS, TABLE_ROWS, TABLE_COLUMNS, TABLE_PRECISION,
                    )  # fmt: skip
            store_rows(d_query, row * D, inside, first_channel, total * scale, D, BLOCK_D)
    if D_BIAS:
        entry = tl.arange(0, TABLE_ROWS)[:, None] * TABLE_COLUMNS + tl.arange(0, TABLE_COLUMNS)[None, :]
        tl.store(partial + program.to(tl.int64) * (TABLE_ROWS * TABLE_COLUMNS) + entry, table)


def query_tiling(query: Tensor, value: Tensor, axes: Axes, bias: bool) -> Tiling:
    return tiling(axes, "query", query.shape[-1], value.shape[-1], query.element_size(), bias)


def table_shape(axes: Axes, tiles: Tiling) -> tuple[int, int] | None:
    """Rows and columns of a head's bias gradient as the query kernel sums it; None where it does not fit in there.

    On maps of one axis, and for huge kernels, the matrices of zeros and ones would be as large as the tables.
    """
    rows = max(16, power_of_two((2 * axes.kernel[0] - 1) * (2 * axes.kernel[1] - 1)))
    columns = max(16, power_of_two(2 * axes.kernel[2] - 1))
    in_rows, in_columns = tiles.tile[0] * tiles.tile[1] * tiles.rows, tiles.tile[2] * tiles.columns
    fits = rows * columns <= 4096 and 8 <= in_rows <= 128 and 16 <= in_columns <= 512
    return (rows, columns) if fits else None


def bias_partial(query: Tensor, value: Tensor, axes: Axes) -> Tensor | None:
    """Room for the partial sums of the bias's gradient, under a sixteenth of the queries, keys and values."""
    tiles = query_tiling(query, value, axes, True)
    shape = table_shape(axes, tiles)
    if shape is None or query.shape[-1] > tiles.channels:
        return None
    batch, *spatial, heads, channels = query.shape
    head_bytes = batch * prod(spatial) * (2 * channels + value.shape[-1]) * query.element_size()
    slices = min(batch * tile_programs(axes, tiles, 1), -(-2048 // heads), head_bytes // (16 * 4 * shape[0] * shape[1]))
    return torch.empty(max(1, slices), heads, *shape, dtype=torch.float32, device=query.device)


def bias_from_partial(partial: Tensor, axes: Axes) -> Tensor:
    """(slices, H, rows, columns) -> (H, 2 * k - 1 for every axis of the map)."""
    k0, k1, k2 = (2 * k - 1 for k in axes.kernel)
    table = partial.sum(0)[:, : k0 * k1, :k2].reshape(-1, k0, k1, k2)
    present = [place for place, axis in enumerate(axes.order) if axis is not None]
    table = table[(slice(None), *(slice(None) if axis is not None else 0 for axis in axes.order))]
    order = sorted(range(len(present)), key=lambda place: axes.order[present[place]])
    return table.permute(0, *(1 + place for place in order)).contiguous()


def query_gradient_launch(
    d_out: Tensor,
    d_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    rel_pos_bias: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    axes: Axes,
    scale: float,
    d_query: Tensor,
    delta: Tensor,
    partial: Tensor | None = None,
) -> Launch:
    """Writes `d_query` and `delta`, (B, *S, H) float32; `d_lse`, `rel_pos_bias`, `out` and `lse` are contiguous.

    With `partial`, (slices, H, TABLE_ROWS, TABLE_COLUMNS) as `table_shape` has it, the bias's gradient as well, to be
    summed over slices.
    """
    heads, channels = query.shape[-2:]
    value_channels = value.shape[-1]
    tiles = query_tiling(query, value, axes, rel_pos_bias is not None)
    strides = Strides(axes, q=query, k=key, v=value, do=d_out)
    extra = strides.add_extra(additional_keys, additional_values)
    if partial is None:
        slices = min(query.shape[0] * tile_programs(axes, tiles, 1), MAX_PROGRAMS // heads)
        table = {"TABLE_ROWS": 16, "TABLE_COLUMNS": 16}
    else:
        slices, _, rows, columns = partial.shape
        table = {"TABLE_ROWS": rows, "TABLE_COLUMNS": columns}
    # The scores' gradients were rounded to 16 bits already, where TF32 is taken.
    precision = "ieee" if query.dtype == torch.float32 or torch.version.hip else "tf32"
    arguments = {
        "d_out": d_out, "d_lse": lse if d_lse is None else d_lse, "query": query, "key": key, "value": value,
        "out": out, "lse": lse, **bias_arguments(axes, rel_pos_bias, lse),
        "extra_keys": additional_keys if extra else key, "extra_values": additional_values if extra else value,
        "d_query": d_query, "delta": delta, "partial": delta if partial is None else partial,
        **strides.divided(), **map_arguments(axes, tiles.tile),
        "heads": heads, "repeat": heads // key.shape[-2], "extra": extra, "scale": float(scale),
        "batch_size": query.shape[0], "slices": slices,
    }  # fmt: skip
    constants = {
        "D": channels, "E": value_channels, **window_constants(axes), **tile_constants(tiles),
        "BIAS": rel_pos_bias is not None, "EXTRA": extra > 0, "D_LSE": d_lse is not None,
        "D_BIAS": partial is not None, **table, "TABLE_PRECISION": precision,
        "UNIT": strides.unit(), "UPCAST": upcast(query),
    }  # fmt: skip
    blocks = -(-channels // tiles.channels)
    # The batch is inside the program's loop: one launch, whatever the number of tiles.
    return Launch(query_gradient_kernel, heads * slices, blocks, 1, arguments, constants, tiles.warps, tiles.stages)
