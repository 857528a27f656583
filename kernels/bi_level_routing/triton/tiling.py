"""How the Triton kernels cut regions into tiles: plain Python, without Triton.

A tile holds tokens of one region; what it meets, the tokens of the regions that it is routed to (or that are routed to
it), is walked as one list, a chunk at a time, whatever the size of those regions.
"""

from typing import NamedTuple


class Tiling(NamedTuple):
    """Powers of two from 16 up all, as products in Triton want them; warps apart."""

    tile: int
    chunk: int
    channels: int  # of queries and keys at a time
    value_channels: int
    warps: int
    stages: int


def power_of_two(n: int) -> int:
    return 1 << max(0, n - 1).bit_length()


def tiling(tokens: int, channels: int, value_channels: int, itemsize: int, backward: bool) -> Tiling:
    """For regions of so many tokens. Nothing else of a map makes a new kernel.

    Sizes are bounded by what keeps accumulators and scores in registers; the ahead-of-time compile tests hold it.
    """
    widest = power_of_two(max(channels, value_channels, 16))
    if itemsize == 4:  # multiplied without tensor cores, so operands take registers as well
        most, largest, warps = (64, 32, 4) if widest <= 32 else (64, 16, 8)
        chunk = 16 if backward and widest > 32 else 32
    else:
        most, largest = (64, 64) if widest <= 64 else (128, 32 if backward else 64)
        chunk, warps = (32 if backward or widest > 32 else 64), 4
    tile = min(largest, max(16, power_of_two(tokens)))
    return Tiling(
        tile, chunk, min(power_of_two(max(channels, 16)), most), min(power_of_two(max(value_channels, 16)), most),
        warps, 2 if itemsize == 2 and not backward else 1,
    )  # fmt: skip
