"""Gradients of the bias table and of the additional tokens in Triton: sums over all queries, in a fixed order.

Each program sums one slice of the queries; the slices' sums are added up by PyTorch.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...triton_launch import Launch, upcast
from ...triton_rows import load_rows, products, store_rows
from .launch import Strides, bias_strides, five, map_arguments, names, three, window_constants
from .tiling import Axes, power_of_two
from .windows import key_range

SHARED = (
    five("q"), five("do"), three("size"), three("line"), ("heads", "repeat", "slices", "first_batch"),
)  # fmt: skip
BIAS_INTEGERS = names(*SHARED, five("k"), five("v"), three("dil"), three("bias_"), ("batch_size", "bins"))
EXTRA_INTEGERS = names(*SHARED, ("ek_b", "ek_m", "ek_h", "ev_b", "ev_m", "ev_h", "extra", "batch_size"))
TOKENS = 64  # queries at a time


@triton.jit
def _row_products(
    left, left_rows, right, right_rows, inside, WIDTH: tl.constexpr, BLOCK: tl.constexpr, UPCAST: tl.constexpr
):
    """Dot product of each row on the left with its row on the right, (rows,)."""
    total = tl.zeros((left_rows.shape[0],), tl.float32)
    for first in range(0, WIDTH, BLOCK):
        one = load_rows(left, left_rows, inside, first, WIDTH, BLOCK, UPCAST).to(tl.float32)
        other = load_rows(right, right_rows, inside, first, WIDTH, BLOCK, UPCAST).to(tl.float32)
        total += tl.sum(one * other, 1)
    return total


@triton.jit(do_not_specialize=BIAS_INTEGERS)
def bias_gradient_kernel(
    d_out, query, key, value, lse, delta, bias, partial,
    q_b, q_0, q_1, q_2, q_h, k_b, k_0, k_1, k_2, k_h, v_b, v_0, v_1, v_2, v_h, do_b, do_0, do_1, do_2, do_h,
    bias_0, bias_1, bias_2, size0, size1, size2, dil0, dil1, dil2, line0, line1, line2,
    heads, repeat, bins, slices, batch_size, first_batch, scale,
    D: tl.constexpr, E: tl.constexpr, K0: tl.constexpr, K1: tl.constexpr, K2: tl.constexpr,
    S0: tl.constexpr, S1: tl.constexpr, S2: tl.constexpr, C0: tl.constexpr, C1: tl.constexpr, C2: tl.constexpr,
    BLOCK: tl.constexpr, BLOCK_D: tl.constexpr, BLOCK_E: tl.constexpr, UNIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program: one entry of one head's table, one slice of the queries of all batch items."""
    LOG2E: tl.constexpr = 1.4426950408889634
    program = tl.program_id(0)
    head = program % heads
    entry = program // heads % bins
    part = program // heads // bins
    kv_head = head // repeat
    # The entry's distances; the three strides of the table tell the order of its axes.
    distance0 = entry // bias_0 % (2 * K0 - 1) - (K0 - 1) if K0 > 1 else 0
    distance1 = entry // bias_1 % (2 * K1 - 1) - (K1 - 1) if K1 > 1 else 0
    distance2 = entry // bias_2 % (2 * K2 - 1) - (K2 - 1) if K2 > 1 else 0
    offset = tl.load(bias + head * bins + entry)

    query += head * q_h.to(tl.int64) * UNIT
    d_out += head * do_h.to(tl.int64) * UNIT
    key += (
        kv_head * k_h.to(tl.int64) + distance0 * dil0 * k_0.to(tl.int64) + distance1 * dil1 * k_1.to(tl.int64)
        + distance2 * dil2 * k_2.to(tl.int64)
    ) * UNIT  # fmt: skip
    value += (
        kv_head * v_h.to(tl.int64) + distance0 * dil0 * v_0.to(tl.int64) + distance1 * dil1 * v_1.to(tl.int64)
        + distance2 * dil2 * v_2.to(tl.int64)
    ) * UNIT  # fmt: skip
    tokens = size0 * size1 * size2
    blocks = (tokens + (BLOCK - 1)) // BLOCK
    total = tl.zeros((BLOCK,), tl.float32)
    for step in range(part, batch_size * blocks, slices):
        batch = (step // blocks).to(tl.int64)
        token = step % blocks * BLOCK + tl.arange(0, BLOCK)
        token0, token1, token2 = token // size2 // size1, token // size2 % size1, token % size2
        n0 = (size0 - token0 % dil0 + dil0 - 1) // dil0
        n1 = (size1 - token1 % dil1 + dil1 - 1) // dil1
        n2 = (size2 - token2 % dil2 + dil2 - 1) // dil2
        start0, end0 = key_range(token0 // dil0, n0, K0, S0, C0)
        start1, end1 = key_range(token1 // dil1, n1, K1, S1, C1)
        start2, end2 = key_range(token2 // dil2, n2, K2, S2, C2)
        seen0 = (token0 // dil0 + distance0 >= start0) & (token0 // dil0 + distance0 < end0)
        seen1 = (token1 // dil1 + distance1 >= start1) & (token1 // dil1 + distance1 < end1)
        seen2 = (token2 // dil2 + distance2 >= start2) & (token2 // dil2 + distance2 < end2)
        seen = seen0 & seen1 & seen2 & (token < tokens)
        query_rows = (
            batch * q_b + token0 * q_0.to(tl.int64) + token1 * q_1.to(tl.int64) + token2 * q_2.to(tl.int64)
        ) * UNIT
        key_rows = (
            batch * k_b + token0 * k_0.to(tl.int64) + token1 * k_1.to(tl.int64) + token2 * k_2.to(tl.int64)
        ) * UNIT
        value_rows = (
            batch * v_b + token0 * v_0.to(tl.int64) + token1 * v_1.to(tl.int64) + token2 * v_2.to(tl.int64)
        ) * UNIT
        d_out_rows = (
            batch * do_b + token0 * do_0.to(tl.int64) + token1 * do_1.to(tl.int64) + token2 * do_2.to(tl.int64)
        ) * UNIT
        row = (batch * tokens + token0 * line0 + token1 * line1 + token2 * line2) * heads + head
        lses = tl.load(lse + row, mask=seen, other=0.0)
        deltas = tl.load(delta + row, mask=seen, other=0.0)
        scores = _row_products(query, query_rows, key, key_rows, seen, D, BLOCK_D, UPCAST) * scale + offset
        d_weights = _row_products(d_out, d_out_rows, value, value_rows, seen, E, BLOCK_E, UPCAST)
        total += tl.where(seen, tl.math.exp2((scores - lses) * LOG2E) * (d_weights - deltas), 0.0)
    tl.store(partial + program, tl.sum(total, 0))


@triton.jit(do_not_specialize=EXTRA_INTEGERS)
def extra_gradient_kernel(
    d_out, query, lse, delta, extra_keys, extra_values, d_extra_keys, d_extra_values,
    q_b, q_0, q_1, q_2, q_h, do_b, do_0, do_1, do_2, do_h, ek_b, ek_m, ek_h, ev_b, ev_m, ev_h,
    size0, size1, size2, line0, line1, line2, heads, repeat, extra, slices, batch_size, first_batch, scale,
    D: tl.constexpr, E: tl.constexpr, TOKENS: tl.constexpr, BLOCK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, UNIT: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """A program: TOKENS additional tokens, one key/value head, one batch item, one slice of the queries, one block."""
    LOG2E: tl.constexpr = 1.4426950408889634
    program = tl.program_id(0)
    block = tl.program_id(1)
    kv_head = program % heads
    token_blocks = (extra + (TOKENS - 1)) // TOKENS
    token = program // heads % token_blocks * TOKENS + tl.arange(0, TOKENS)
    part = program // heads // token_blocks % slices
    batch = (program // heads // token_blocks // slices + first_batch).to(tl.int64)
    there = token < extra
    extra_keys += (batch * ek_b + kv_head * ek_h.to(tl.int64)) * UNIT
    extra_values += (batch * ev_b + kv_head * ev_h.to(tl.int64)) * UNIT
    key_rows, value_rows = token * ek_m.to(tl.int64) * UNIT, token * ev_m.to(tl.int64) * UNIT
    keys = load_rows(extra_keys, key_rows, there, 0, D, BLOCK_D, UPCAST)
    values = load_rows(extra_values, value_rows, there, 0, E, BLOCK_E, UPCAST)
    query += (batch * q_b + kv_head * repeat * q_h.to(tl.int64)) * UNIT
    d_out += (batch * do_b + kv_head * repeat * do_h.to(tl.int64)) * UNIT
    tokens = size0 * size1 * size2
    blocks = (tokens + (BLOCK - 1)) // BLOCK
    d_keys = tl.zeros((TOKENS, BLOCK_D), tl.float32)
    d_values = tl.zeros((TOKENS, BLOCK_E), tl.float32)
    for step in range(part, repeat * blocks, slices):
        head = step // blocks
        place = step % blocks * BLOCK + tl.arange(0, BLOCK)
        inside = place < tokens
        place0, place1, place2 = place // size2 // size1, place // size2 % size1, place % size2
        query_rows = (
            head * q_h.to(tl.int64) + place0 * q_0.to(tl.int64) + place1 * q_1.to(tl.int64) + place2 * q_2.to(tl.int64)
        ) * UNIT
        d_out_rows = (
            head * do_h.to(tl.int64) + place0 * do_0.to(tl.int64) + place1 * do_1.to(tl.int64)
            + place2 * do_2.to(tl.int64)
        ) * UNIT  # fmt: skip
        row = (batch * tokens + place0 * line0 + place1 * line1 + place2 * line2) * (heads * repeat) + kv_head * repeat
        lses = tl.load(lse + row + head, mask=inside, other=0.0) * LOG2E
        deltas = tl.load(delta + row + head, mask=inside, other=0.0)
        queries = load_rows(query, query_rows, inside, 0, D, BLOCK_D, UPCAST)
        scores = products(keys, extra_keys, key_rows, there, queries, query, query_rows, inside, D, BLOCK_D, UPCAST)
        weights = tl.math.exp2(scores * (scale * LOG2E) - lses[None, :])
        weights = tl.where(inside[None, :], weights, 0.0)
        d_outs = load_rows(d_out, d_out_rows, inside, 0, E, BLOCK_E, UPCAST)
        d_weights = products(
            values, extra_values, value_rows, there, d_outs, d_out, d_out_rows, inside, E, BLOCK_E, UPCAST
        )
        if E > BLOCK_E:
            d_outs = load_rows(d_out, d_out_rows, inside, block * BLOCK_E, E, BLOCK_E, UPCAST)
        d_values += tl.dot(weights.to(d_outs.dtype), d_outs, input_precision="ieee")
        d_scores = weights * (d_weights - deltas[None, :])
        if D > BLOCK_D:
            queries = load_rows(query, query_rows, inside, block * BLOCK_D, D, BLOCK_D, UPCAST)
        d_keys += tl.dot(d_scores.to(queries.dtype), queries, input_precision="ieee")
    row = ((part * batch_size + batch) * extra + token) * heads + kv_head
    store_rows(d_extra_keys, row * D, there, block * BLOCK_D, d_keys * scale, D, BLOCK_D)
    store_rows(d_extra_values, row * E, there, block * BLOCK_E, d_values, E, BLOCK_E)


def bias_slices(queries: int, programs: int) -> int:
    """Slices of the queries: enough programs to fill a GPU, and 16 blocks of queries or more in each slice."""
    return max(1, min(-(-4096 // max(1, programs)), queries // (16 * TOKENS)))


def extra_slices(tokens: int, repeat: int, extra: int, programs: int) -> int:
    """As `bias_slices`; the partial sums stay under a sixteenth of the queries as well."""
    return max(1, min(-(-512 // max(1, programs)), tokens * repeat // (16 * max(extra, TOKENS)), 64))


def _widths(channels: int, value_channels: int, itemsize: int) -> dict[str, int]:
    most = 64 if itemsize == 4 else 128
    return {
        "D": channels, "E": value_channels,
        "BLOCK_D": min(power_of_two(max(16, channels)), most),
        "BLOCK_E": min(power_of_two(max(16, value_channels)), most),
    }  # fmt: skip


def bias_gradient_launch(
    d_out: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lse: Tensor,
    delta: Tensor,
    rel_pos_bias: Tensor,
    axes: Axes,
    scale: float,
    partial: Tensor,
) -> Launch:
    """Writes `partial`, (slices, bins, H) float32, to be summed over slices. `rel_pos_bias` is contiguous."""
    heads = query.shape[-2]
    slices, bins, _ = partial.shape
    strides = Strides(axes, q=query, k=key, v=value, do=d_out)
    arguments = {
        "d_out": d_out, "query": query, "key": key, "value": value, "lse": lse, "delta": delta, "bias": rel_pos_bias,
        "partial": partial, **strides.divided(), **map_arguments(axes, None),
        **bias_strides(axes),
        "heads": heads, "repeat": heads // key.shape[-2], "bins": bins, "slices": slices,
        "batch_size": query.shape[0], "scale": float(scale),
    }  # fmt: skip
    constants = {
        **_widths(query.shape[-1], value.shape[-1], query.element_size()), **window_constants(axes),
        "BLOCK": TOKENS, "UNIT": strides.unit(), "UPCAST": upcast(query),
    }  # fmt: skip
    # All batch items in every program: "one batch item" as far as the launch is concerned.
    return Launch(bias_gradient_kernel, heads * bins * slices, 1, 1, arguments, constants, 4, 2)


def extra_gradient_launch(
    d_out: Tensor,
    query: Tensor,
    lse: Tensor,
    delta: Tensor,
    additional_keys: Tensor,
    additional_values: Tensor,
    axes: Axes,
    scale: float,
    partial_keys: Tensor,
    partial_values: Tensor,
) -> Launch:
    """Writes (slices, B, M, G, D) and (slices, B, M, G, E), float32, to be summed over slices."""
    slices, batch, extra, heads, channels = partial_keys.shape
    value_channels = partial_values.shape[-1]
    strides = Strides(axes, q=query, do=d_out)
    strides.add_extra(additional_keys, additional_values)
    arguments = {
        "d_out": d_out, "query": query, "lse": lse, "delta": delta, "extra_keys": additional_keys,
        "extra_values": additional_values, "d_extra_keys": partial_keys, "d_extra_values": partial_values,
        **strides.divided(), **map_arguments(axes, None), "heads": heads, "repeat": query.shape[-2] // heads,
        "extra": extra, "slices": slices, "batch_size": batch, "scale": float(scale),
    }  # fmt: skip
    for name in three("dil"):
        del arguments[name]  # the additional tokens have no place
    widths = _widths(channels, value_channels, query.element_size())
    constants = {
        **widths,
        "TOKENS": 16,
        "BLOCK": TOKENS if query.element_size() == 2 else 16,
        "UNIT": strides.unit(),
        "UPCAST": upcast(query),
    }
    blocks = max(-(-channels // widths["BLOCK_D"]), -(-value_channels // widths["BLOCK_E"]))
    programs = heads * slices * -(-extra // 16)
    return Launch(extra_gradient_kernel, programs, blocks, batch, arguments, constants, 4, 2)


def bias_gradient(*tensors: Tensor, axes: Axes, scale: float) -> Tensor:
    """`tensors` as in `bias_gradient_launch`, without the last; -> as `rel_pos_bias`."""
    query, rel_pos_bias = tensors[1], tensors[-1]
    heads = query.shape[-2]
    bins = rel_pos_bias[0].numel()
    slices = bias_slices(query[..., 0, 0].numel(), heads * bins)
    partial = torch.empty(slices, bins, heads, dtype=torch.float32, device=query.device)
    bias_gradient_launch(*tensors, axes, scale, partial).run()
    return partial.sum(0).t().reshape(rel_pos_bias.shape).contiguous()


def extra_gradient(*tensors: Tensor, axes: Axes, scale: float) -> tuple[Tensor, Tensor]:
    """`tensors` as in `extra_gradient_launch`, without the last two; -> as the additional keys and values."""
    query, keys, values = tensors[1], *tensors[-2:]
    batch, extra, heads, _ = keys.shape
    tokens = query[0, ..., 0, 0].numel()
    slices = extra_slices(tokens, query.shape[-2] // heads, extra, batch * heads * -(-extra // 16))
    partials = [torch.empty(slices, *t.shape, dtype=torch.float32, device=query.device) for t in (keys, values)]
    extra_gradient_launch(*tensors, axes, scale, *partials).run()
    return partials[0].sum(0).to(keys.dtype), partials[1].sum(0).to(values.dtype)
