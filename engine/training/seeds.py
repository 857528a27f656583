"""Random numbers that follow from where a run is, not from what it has drawn before.

Whatever is random while training is drawn from generators that are seeded anew: for a sample by (seed, epoch, sample),
for what the model draws by (seed, iteration, rank). So no generator's state has to be saved, and neither the number of
data workers nor an interruption changes a number.
"""

import contextlib
import random
import struct
from collections.abc import Iterator
from hashlib import blake2b

import numpy as np
import torch

SAMPLE, ITERATION = range(2)  # what a seed is for: no two purposes share one


def seed_of(*parts: int) -> tuple[int, int]:
    """Two independent seeds of 64 bits out of whole numbers of as many, at least 0; other parts give others."""
    # A tenth of the time of NumPy's SeedSequence, which counts where every sample of a batch is seeded.
    return struct.unpack("<2Q", blake2b(struct.pack(f"<{len(parts)}Q", *parts), digest_size=16).digest())


def seed_generators(*parts: int) -> None:
    """Seed Python's, NumPy's and PyTorch's global generators (the CPU's and every GPU's) by non-negative numbers."""
    first, second = seed_of(*parts)
    random.seed(first)
    np.random.seed(second >> 32)
    torch.default_generator.manual_seed(first)
    if torch.cuda.is_initialized() and not torch.cuda._is_in_bad_fork():
        torch.cuda.manual_seed_all(first)


def seed_iteration(seed: int, iteration: int, rank: int) -> None:
    """What the model and the batch draw in an iteration: dropout, drop path, mixup."""
    seed_generators(ITERATION, seed, iteration, rank)


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """The CPU's generators afterwards as they were before."""
    states = random.getstate(), np.random.get_state(), torch.default_generator.get_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.default_generator.set_state(states[2])
