"""What the processor can do at best: float32 operations and bytes a second, measured. Bounds for the kernels."""

import ctypes
import time
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import torch

from . import build

LIBRARY = build.Library("peak", (build.Unit("csrc/peak.cpp"),))


class Peak(NamedTuple):
    """Operations a second of so many threads together, and the vectors that did them."""

    flops: float
    vectors: str
    threads: int


def peak_flops(threads: int = 1, seconds: float = 0.5) -> Peak:
    """Float32 operations a second, multiplication and addition counted one each.

    Raises:
        InputError: there is no compiler.
    """
    library = ctypes.CDLL(str(build.build(LIBRARY)))
    library.bestiary_peak_flops.restype = ctypes.c_double
    library.bestiary_peak_flops.argtypes = [ctypes.c_double]
    library.bestiary_peak_vectors.restype = ctypes.c_char_p
    with ThreadPoolExecutor(threads) as pool:  # ctypes lets go of the interpreter's lock
        done = list(pool.map(library.bestiary_peak_flops, [seconds] * threads))
    return Peak(sum(done), library.bestiary_peak_vectors().decode(), threads)


def copy_bytes(device: torch.device, megabytes: int = 256, rounds: int = 10) -> float:
    """Bytes read and written a second by a copy that is too large for the caches; the best of `rounds`."""
    source = torch.ones(megabytes << 18, device=device)  # float32
    target = torch.empty_like(source)
    best = float("inf")
    for _ in range(rounds):
        if device.type == "cuda":
            begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            begin.record()
            target.copy_(source)
            end.record()
            end.synchronize()
            taken = begin.elapsed_time(end) / 1e3
        else:
            start = time.perf_counter()
            target.copy_(source)
            taken = time.perf_counter() - start
        best = min(best, taken)
    return 2 * source.nbytes / best
