"""What commands of ours get that others of ours start."""

import os


def environment() -> dict[str, str]:
    """This process's variables, with the allocator set for training; the output comes at once."""
    # Memory that a training step frees is wanted again by the next one: glibc would give it back and fault it in anew.
    memory = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
    return {**memory, **os.environ, "PYTHONUNBUFFERED": "1"}


def cores() -> int:
    """How many this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
