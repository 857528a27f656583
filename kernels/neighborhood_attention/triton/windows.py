"""The index rule of `..windows` for Triton, its inverse, and how tiles and chunks are found on a map.

Letters of the kernels: n length of a dilation group, K kernel size, S stride, C causal, T tile; 0, 1, 2 the three axes.
"""

import triton
import triton.language as tl


@triton.jit
def key_range(place, n, K: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """First and one-past-last place that the query at `place` sees, in a dilation group of n tokens."""
    if C:
        start = tl.maximum(tl.minimum(place // S * S + (S - 1), n - 1) - (K - 1), 0)
        end = place + 1
    else:
        start = tl.minimum(tl.maximum(tl.minimum(place // S * S + S // 2, n - 1) - K // 2, 0), n - K)
        end = start + K
    return start, end


@triton.jit
def query_range(first, last, n, K: tl.constexpr, S: tl.constexpr, C: tl.constexpr):
    """First and one-past-last query that sees any key from `first` to `last`: starts and ends never decrease."""
    if C:
        start = first
        end = tl.where(last + K >= n, n, tl.minimum((last + K) // S * S, n))
    else:
        start = tl.where(first < K, 0, (tl.maximum(first - K + 1 + K // 2 - S // 2, 0) + S - 1) // S * S)
        end = tl.where(last >= n - K, n, tl.minimum(((last + K // 2 - S // 2) // S + 1) * S, n))
    return start, end


@triton.jit
def locate(
    tile, size0, size1, size2, dil0, dil1, dil2, tiles0, tiles1, tiles2,
    T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr,
):  # fmt: skip
    """Of a tile: its dilation group, the group's lengths and the tile's first place, on each axis."""
    in_group = tiles0 * tiles1 * tiles2
    group = tile // in_group
    tile = tile % in_group
    group2 = group % dil2
    group1 = group // dil2 % dil1
    group0 = group // dil2 // dil1
    n0 = (size0 - group0 + dil0 - 1) // dil0
    n1 = (size1 - group1 + dil1 - 1) // dil1
    n2 = (size2 - group2 + dil2 - 1) // dil2
    first2 = tile % tiles2 * T2
    first1 = tile // tiles2 % tiles1 * T1
    first0 = tile // tiles2 // tiles1 * T0
    return group0, group1, group2, n0, n1, n2, first0, first1, first2


@triton.jit
def tile_places(first0, first1, first2, n0, n1, n2, T0: tl.constexpr, T1: tl.constexpr, T2: tl.constexpr):
    """Places of a tile's tokens, three (T,), and which are on the map; others repeat the last token of the group."""
    slot = tl.arange(0, T0 * T1 * T2)
    place0 = first0 + slot // (T1 * T2)
    place1 = first1 + slot // T2 % T1
    place2 = first2 + slot % T2
    inside = (place0 < n0) & (place1 < n1) & (place2 < n2)
    return tl.minimum(place0, n0 - 1), tl.minimum(place1, n1 - 1), tl.minimum(place2, n2 - 1), inside


@triton.jit
def chunk_places(chunk, blocks1, blocks2, from0, from1, from2, to1, to2, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Places of a chunk's tokens, a scalar and two (ROWS * COLUMNS,), and which lie in the region."""
    slot = tl.arange(0, ROWS * COLUMNS)
    place2 = from2 + chunk % blocks2 * COLUMNS + slot % COLUMNS
    place1 = from1 + chunk // blocks2 % blocks1 * ROWS + slot // COLUMNS
    place0 = from0 + chunk // blocks2 // blocks1
    return place0, place1, place2, (place1 < to1) & (place2 < to2)


@triton.jit
def _below(bit):
    """All bits under `bit`, from 0 to 32."""
    return ((tl.full((), 1, tl.int64) << bit.to(tl.int64)) - 1).to(tl.uint32)


@triton.jit
def seen_bits(
    chunk, blocks1, blocks2, from0, from1, from2, start0, end0, start1, end1, start2, end2,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    """Which tokens of a chunk each row sees, one bit a token: (rows,) out of the rows' ranges on the three axes.

    A score then costs one test of a bit, whatever the number of axes; a chunk has at most 32 tokens.
    """
    column = from2 + chunk % blocks2 * COLUMNS
    row = from1 + chunk // blocks2 % blocks1 * ROWS
    plane = from0 + chunk // blocks2 // blocks1
    left = tl.minimum(tl.maximum(start2 - column, 0), COLUMNS)
    right = tl.minimum(tl.maximum(end2 - column, 0), COLUMNS)
    REPEAT: tl.constexpr = ((1 << (ROWS * COLUMNS)) - 1) // ((1 << COLUMNS) - 1)  # a one at the start of each row
    bits = (_below(right) ^ _below(left)) * tl.full((), REPEAT, tl.uint32)
    if ROWS > 1:
        upper = tl.minimum(tl.maximum(start1 - row, 0), ROWS) * COLUMNS
        lower = tl.minimum(tl.maximum(end1 - row, 0), ROWS) * COLUMNS
        bits = bits & (_below(lower) ^ _below(upper))
        return tl.where((plane >= start0) & (plane < end0), bits, tl.zeros_like(bits))
    else:
        hit = (row >= start1) & (row < end1) & (plane >= start0) & (plane < end0)
        return tl.where(hit, bits, tl.zeros_like(bits))


@triton.jit
def unpack_bits(bits, COUNT: tl.constexpr):
    """(rows,) -> (rows, COUNT) of booleans."""
    single = (tl.full((), 1, tl.uint32) << tl.arange(0, COUNT).to(tl.uint32))[None, :]
    return (bits[:, None] & single) != 0
