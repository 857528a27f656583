"""Random numbers that follow from where a run is, not from what it has drawn before.

Whatever is random while training is drawn from generators that are seeded anew: for a sample by (seed, epoch, sample),
for what the model draws by (seed, iteration, rank). So no generator's state has to be saved, and neither the number of
data workers nor an interruption changes a number.
"""

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch

SAMPLE, ITERATION = range(2)  # what a seed is for: no two purposes share one


def seed_of(*parts: int) -> tuple[int, int]:
    """Two independent seeds of 64 bits out of non-negative whole numbers; other parts give others."""
    first, second = np.random.SeedSequence(parts).generate_state(2, np.uint64)
    return int(first), int(second)


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
