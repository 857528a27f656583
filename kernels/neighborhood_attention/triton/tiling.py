"""How the Triton kernels cut a map into tiles: plain Python, without Triton, so that the rule can be tested anywhere.

Three axes always: a map of one or two gets leading axes of length 1. Axes with a kernel of 1 come first, so that the
last one, along which keys are loaded, is one with neighbours. The tile of an axis lies inside one dilation group.
"""

from collections.abc import Sequence
from functools import lru_cache
from math import gcd, prod
from typing import NamedTuple

from torch import Tensor


class Axes(NamedTuple):
    """The spatial axes, three of each; `order` says which axis of the map each one is (None: it was added)."""

    order: tuple[int | None, ...]
    size: tuple[int, ...]
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    causal: tuple[bool, ...]

    def spread(self, values: tuple[int, ...], missing: int = 0) -> tuple[int, ...]:
        """One value a spatial axis of the map, in the order of these axes."""
        return tuple(missing if axis is None else values[axis] for axis in self.order)

    def strides(self, tensor: Tensor) -> tuple[int, ...]:
        """Of a (B, *S, heads, channels) tensor: batch, the three axes, head."""
        stride = tensor.stride()
        return (stride[0], *self.spread(stride[1:-2]), stride[-2])

    def token_strides(self) -> tuple[int, ...]:
        """Between the tokens of a contiguous map, in tokens."""
        spatial = [0] * sum(axis is not None for axis in self.order)
        for axis, length in zip(self.order, self.size, strict=True):
            if axis is not None:
                spatial[axis] = length
        return self.spread(tuple(prod(spatial[axis + 1 :]) for axis in range(len(spatial))))

    def bias_strides(self) -> tuple[int, ...]:
        """Between the entries of one head of a contiguous bias table."""
        widths = [1] * sum(axis is not None for axis in self.order)
        for axis, k in zip(self.order, self.kernel, strict=True):
            if axis is not None:
                widths[axis] = 2 * k - 1
        return self.spread(tuple(prod(widths[axis + 1 :]) for axis in range(len(widths))))

    def tiles(self, tile: tuple[int, ...]) -> tuple[int, ...]:
        """Tiles of the longest dilation group, per axis."""
        longest = (-(-n // d) for n, d in zip(self.size, self.dilation, strict=True))
        return tuple(-(-n // t) for n, t in zip(longest, tile, strict=True))


def axes_of(
    spatial: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int],
    is_causal: Sequence[int],
) -> Axes:
    """The one to three axes of a map as three. A kernel of 1 sees the query alone, whatever else is said of it."""
    order = sorted(range(len(spatial)), key=lambda axis: kernel_size[axis] > 1)
    filled: list[int | None] = [None] * (3 - len(order)) + order
    rows = []
    for axis in filled:
        if axis is None:
            rows.append((1, 1, 1, 1, False))
        elif kernel_size[axis] == 1:
            rows.append((spatial[axis], 1, 1, 1, False))
        else:
            rows.append((spatial[axis], kernel_size[axis], stride[axis], dilation[axis], bool(is_causal[axis])))
    return Axes(tuple(filled), *zip(*rows, strict=True))


class Tiling(NamedTuple):
    """A tile of queries (or of keys, for their gradients), and the chunks in which what it meets is walked."""

    tile: tuple[int, int, int]
    rows: int  # of the second axis in a chunk
    columns: int  # of the last axis in a chunk
    channels: int  # of queries and keys at a time
    value_channels: int
    warps: int
    stages: int

    @property
    def block(self) -> int:
        return prod(self.tile)

    @property
    def chunk(self) -> int:
        return self.rows * self.columns


def power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def walk(tile: tuple[int, int, int], kernel: tuple[int, ...], chunk: int) -> tuple[int, int, int]:
    """Rows and columns of a chunk, and how many chunks cover the halo of a tile far from the borders."""
    halo = [t + k - 1 for t, k in zip(tile, kernel, strict=True)]
    columns = min(power_of_two(halo[2]), chunk)
    rows = chunk // columns
    return rows, columns, halo[0] * -(-halo[1] // rows) * -(-halo[2] // columns)


def tile_shape(axes: Axes, block: int, chunk: int) -> tuple[int, int, int]:
    """Of the tiles with `block` tokens the one that meets the fewest chunks; among equals the one nearest to a cube.

    No side is over 16 where several axes have neighbours: small maps, and dilation groups of large ones, would not
    fill it.
    """
    used = [axis is not None for axis in axes.order]
    several = sum(k > 1 for k in axes.kernel) > 1
    sides = [[1 << i for i in range(block.bit_length())] if u else [1] for u in used]
    shapes = [(a, b, c) for a in sides[0] for b in sides[1] for c in sides[2] if a * b * c == block]
    if several and sum(used) * 4 >= block.bit_length() - 1:
        shapes = [shape for shape in shapes if max(shape) <= 16]
    return min(shapes, key=lambda shape: (walk(shape, axes.kernel, chunk)[2], sum(shape), shape))


@lru_cache(maxsize=1024)
def tiling(axes: Axes, kernel: str, channels: int, value_channels: int, itemsize: int, bias: bool) -> Tiling:
    """The tiles of one kernel, "forward", "query" (gradient) or "key" (gradient), by a rule: nothing is timed.

    Sizes are bounded by what keeps accumulators and scores in registers; the ahead-of-time compile tests hold it.
    """
    widest = power_of_two(max(channels, value_channels, 16))
    table = bias and kernel == "query"  # sums the bias's gradient too
    if itemsize == 4:  # multiplied without tensor cores, so operands take registers as well
        most, narrow = 64, widest <= 64 and not table
        block, chunk = (32, 32) if narrow else (16, 16)
        warps = 8 if narrow and kernel == "key" else 4
        stages = 2 if narrow and not (bias and kernel == "key") else 1
    else:
        most, narrow = (64, True) if widest <= 64 else (128, False)
        block = 64 if narrow or kernel == "forward" else 32
        chunk = 16 if bias and not narrow else 32
        # Prefetching takes registers, and it prefetches the bias as well.
        warps, stages = 4, (1 if table or (bias and widest > 32) else 2)
    shape = tile_shape(axes, block, chunk)
    rows, columns, _ = walk(shape, axes.kernel, chunk)
    return Tiling(
        shape,
        rows,
        columns,
        min(power_of_two(max(channels, 16)), most),
        min(power_of_two(max(value_channels, 16)), most),
        warps,
        stages,
    )


def common_unit(*strides: int) -> int:
    """Largest power of two up to 16 that divides all strides: what a kernel may assume of its rows' addresses."""
    return gcd(16, *strides)
