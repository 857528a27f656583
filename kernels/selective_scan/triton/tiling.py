"""How the Triton kernels cut a scan into tiles: plain Python, without Triton.

A tile is (steps, states, channels). Triton spreads its last axis over the lanes of a warp, the states over warps, and
what is left over the registers of a thread: 32 channels a program put all steps of a channel's state into one thread,
so that the scan of a tile is a chain of multiply-adds in registers, without shuffles, as long as the products fit.
"""

from typing import NamedTuple

CHANNELS = 32  # of a program: the lanes of a warp


class Tiling(NamedTuple):
    """Powers of two all."""

    steps: int
    states: int
    channels: int
    warps: int

    def blocks(self, channels: int) -> int:
        """Programs for the channels of a route."""
        return -(-channels // self.channels)


def tiling(states: int, chunk: int, steps_last: bool, backward: bool) -> Tiling:
    """The tile for so many states a channel; `chunk` (0: none) steps have to be a whole number of tiles.

    Sizes are bounded by what a thread's registers hold; the ahead-of-time compile tests hold it.
    """
    states = 1 << (states - 1).bit_length()
    channels = max(1, CHANNELS * 64 // max(64, states))
    warps = max(1, min(8, states // 4))
    in_thread = max(1, states * channels // (32 * warps))
    most = 8 if steps_last else 16  # there tiles pass through shared memory on their way to the lanes, in two layouts
    steps = max(1, min(most // 2, 16 // in_thread) if backward else min(most, 32 // in_thread))
    if chunk:
        steps = min(steps, chunk & -chunk)
    return Tiling(steps, states, channels, warps)
