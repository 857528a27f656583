"""What commands of ours get that others of ours start."""

import os


def environment() -> dict[str, str]:
    """This process's variables, with the allocator set for training; the output comes at once."""
    # Memory that a training step frees is wanted again by the next one: glibc would give it back and fault it in anew.
    memory = {"MALLOC_MMAP_THRESHOLD_": str(2**30), "MALLOC_TRIM_THRESHOLD_": str(2**32)}
    return {**memory, **os.environ, "PYTHONUNBUFFERED": "1"}
