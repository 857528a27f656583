"""Bi-level routed attention forward in Triton: a tile of a region's queries, its routed keys read where they lie."""

from math import gcd
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...triton_launch import Launch, upcast
from ...triton_rows import load_rows, products, store_rows
from .tiling import tiling

AXES = "b", "0", "1", "h"  # of a map's strides: batch, rows, columns, heads
SIZES = "columns", "q_high", "q_wide", "k_high", "k_wide", "regions", "topk", "heads", "tiles"


def named(*prefixes: str) -> list[str]:
    return [f"{prefix}_{axis}" for prefix in prefixes for axis in AXES]


@triton.jit
def map_place(region, token, columns, high, wide):
    """Row and column on the map of a region's token."""
    return region // columns * high + token // wide, region % columns * wide + token % wide


@triton.jit
def key_place(index, mask, place, count, columns, high, wide, regions, MASKED: tl.constexpr):
    """Row and column of some places in the list of all keys that `index` names, and whether they count.

    `index` and `mask` point at the first of the region's and of the picture's.
    """
    tokens = high * wide
    there = place < count
    region = tl.load(index + place // tokens, mask=there, other=0).to(tl.int32)
    row, column = map_place(region, place % tokens, columns, high, wide)
    if MASKED:
        there = there & (tl.load(mask + row * (columns * wide) + column, mask=there, other=0) != 0)
    return row, column, there


@triton.jit
def _attend(scores, seen, factors, values, total, top, sums, WEIGHTED: tl.constexpr):
    """One more chunk of keys: weighted sum of values, running maximum (base 2) and sum of exponentials."""
    scores = tl.where(seen[None, :], scores, float("-inf"))
    new_top = tl.maximum(top, tl.max(scores, 1))  # never -inf: top starts at a finite number
    weights = tl.math.exp2(scores - new_top[:, None])
    fade = tl.math.exp2(top - new_top)
    sums = sums * fade + tl.sum(weights, 1)
    if WEIGHTED:
        weights *= factors[None, :]
    total = total * fade[:, None] + tl.dot(weights.to(values.dtype), values, input_precision="ieee")
    return total, new_top, sums


@triton.jit(do_not_specialize=[*named("q", "k", "v", "l"), *SIZES, "first_batch"])
def forward_kernel(
    query, key, value, lepe, mask, index, factor, out, lse,
    q_b, q_0, q_1, q_h, k_b, k_0, k_1, k_h, v_b, v_0, v_1, v_h, l_b, l_0, l_1, l_h,
    columns, q_high, q_wide, k_high, k_wide, regions, topk, heads, tiles, first_batch, scale,
    D: tl.constexpr, E: tl.constexpr, TILE: tl.constexpr, CHUNK: tl.constexpr, BLOCK_D: tl.constexpr,
    BLOCK_E: tl.constexpr, LEPE: tl.constexpr, MASKED: tl.constexpr, WEIGHTED: tl.constexpr, UNIT: tl.constexpr,
    UPCAST: tl.constexpr,
):  # fmt: skip
    """A program: one tile of a region's queries, one head, one batch item, one block of E.

    Neighbouring programs are heads of one tile, then tiles of one region: they read the same lines of keys.
    """
    LOG2E: tl.constexpr = 1.4426950408889634
    LN2: tl.constexpr = 0.6931471805599453
    program = tl.program_id(0)
    value_block = tl.program_id(1)
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
    key += (batch * k_b + head * k_h) * UNIT
    value += (batch * v_b + head * v_h) * UNIT
    index += (batch * regions + region) * topk
    factor += (batch * regions + region) * topk
    keys_of_region = k_high * k_wide
    mask += batch * regions * keys_of_region

    total = tl.zeros((TILE, BLOCK_E), tl.float32)
    top = tl.full((TILE,), -1.0e30, tl.float32)
    sums = tl.zeros((TILE,), tl.float32)
    count = topk * keys_of_region
    for first in range(0, count, CHUNK):
        place = first + tl.arange(0, CHUNK)
        key_row, key_column, there = key_place(index, mask, place, count, columns, k_high, k_wide, regions, MASKED)
        key_rows = (key_row * k_0.to(tl.int64) + key_column * k_1.to(tl.int64)) * UNIT
        value_rows = (key_row * v_0.to(tl.int64) + key_column * v_1.to(tl.int64)) * UNIT
        keys = load_rows(key, key_rows, there, 0, D, BLOCK_D, UPCAST)
        scores = products(queries, query, query_rows, inside, keys, key, key_rows, there, D, BLOCK_D, UPCAST)
        scores *= scale * LOG2E
        factors = tl.load(factor + place // keys_of_region, mask=there, other=0.0) if WEIGHTED else top
        if WEIGHTED:
            scores *= factors[None, :]
        values = load_rows(value, value_rows, there, value_block * BLOCK_E, E, BLOCK_E, UPCAST)
        total, top, sums = _attend(scores, there, factors, values, total, top, sums, WEIGHTED)

    sees = sums > 0  # else every key is masked: zeros
    sums = tl.where(sees, sums, 1.0)
    result = total / sums[:, None]
    if LEPE:
        lepe += (batch * l_b + head * l_h) * UNIT
        lepe_rows = (row * l_0.to(tl.int64) + column * l_1.to(tl.int64)) * UNIT
        result += load_rows(lepe, lepe_rows, inside, value_block * BLOCK_E, E, BLOCK_E, UPCAST).to(tl.float32)
    place = ((batch * regions * q_high * q_wide) + row * (columns * q_wide) + column) * heads + head
    store_rows(out, place * E, inside, value_block * BLOCK_E, result, E, BLOCK_E)
    log = tl.where(sees, (top + tl.math.log2(sums)) * LN2, 0.0)
    tl.store(lse + place, log, mask=inside & (value_block == 0))


def strides(**maps: Tensor | None) -> tuple[dict[str, int], int]:
    """Those of (B, H, W, N, X) maps by argument name, divided by the power of two that they share, and that.

    Triton vectorises a load where it knows its address to be a multiple of the vector.
    """
    values = {
        f"{prefix}_{axis}": stride
        for prefix, tensor in maps.items()
        for axis, stride in zip(AXES, (0,) * 4 if tensor is None else tensor.stride()[:4], strict=True)
    }
    unit = gcd(16, *values.values())
    return {name: stride // unit for name, stride in values.items()}, unit


def sizes(q: Tensor, k: Tensor, index: Tensor, grid: tuple[int, int]) -> dict[str, int]:
    """What all kernels are told of the regions, but the tiles."""
    (rows, columns), (high, wide), (k_high, k_wide) = grid, q.shape[1:3], k.shape[1:3]
    return {
        "columns": columns, "q_high": high // rows, "q_wide": wide // columns, "k_high": k_high // rows,
        "k_wide": k_wide // columns, "regions": rows * columns, "topk": index.shape[2], "heads": q.shape[3],
    }  # fmt: skip


def forward_launch(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lepe: Tensor | None,
    mask: Tensor | None,
    index: Tensor,
    weights: Tensor | None,
    grid: tuple[int, int],
    scale: float,
    out: Tensor,
    lse: Tensor,
) -> Launch:
    """Writes `out` and `lse`."""
    given, unit = strides(q=q, k=k, v=v, l=lepe)
    regions = sizes(q, k, index, grid)
    tokens, channels, value_channels = regions["q_high"] * regions["q_wide"], q.shape[-1], v.shape[-1]
    tiles = tiling(tokens, channels, value_channels, q.element_size(), backward=False)
    regions["tiles"] = -(-tokens // tiles.tile)
    arguments: dict[str, Any] = {
        "query": q, "key": k, "value": v, "lepe": out if lepe is None else lepe,
        "mask": index if mask is None else mask, "index": index,
        "factor": lse if weights is None else weights, "out": out, "lse": lse, **given, **regions,
        "scale": float(scale),
    }  # fmt: skip
    constants = {
        "D": channels, "E": value_channels, "TILE": tiles.tile, "CHUNK": tiles.chunk, "BLOCK_D": tiles.channels,
        "BLOCK_E": tiles.value_channels, "LEPE": lepe is not None, "MASKED": mask is not None,
        "WEIGHTED": weights is not None, "UNIT": unit, "UPCAST": upcast(q),
    }  # fmt: skip
    programs = regions["heads"] * regions["tiles"] * regions["regions"]
    blocks = -(-value_channels // tiles.value_channels)
    return Launch(forward_kernel, programs, blocks, q.shape[0], arguments, constants, tiles.warps, tiles.stages)


def forward(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lepe: Tensor | None,
    mask: Tensor | None,
    index: Tensor,
    weights: Tensor | None,
    grid: tuple[int, int],
    scale: float,
) -> tuple[Tensor, Tensor]:
    """(B, H, W, N, E) and the LSE (B, H, W, N), float32; see `operators.py`."""
    out = torch.empty(*q.shape[:-1], v.shape[-1], dtype=q.dtype, device=q.device)
    lse = torch.empty(q.shape[:-1], dtype=torch.float32, device=q.device)
    if lse.numel():
        mask = None if mask is None else mask.contiguous()
        forward_launch(q, k, v, lepe, mask, index.contiguous(), weights, grid, scale, out, lse).run()
    return out, lse
