"""Launches of Triton kernels as values: they can be run, and compiled ahead of time for a GPU that is not there.

It imports Triton, as `triton_rows.py` does; the backends that use them are imported at their first call.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

INTERPRETED = bool(triton.knobs.runtime.interpret)
MAX_PROGRAMS = 2**31 - 1  # of the first axis of a CUDA grid


class Launch(NamedTuple):
    """One kernel with its arguments in order; it takes `first_batch` too, the first batch item of a slice."""

    kernel: Callable[..., Any]
    programs: int  # for one batch item: the first axis of the grid
    blocks: int  # second axis of the grid
    batch: int
    arguments: dict[str, Any]  # tensors, integers, floats
    constants: dict[str, Any]
    warps: int
    stages: int

    def run(self) -> None:
        """Start the kernel, in slices of the batch where the grid would be too large."""
        at_a_time = max(1, MAX_PROGRAMS // max(1, self.programs))
        device = next(value.device for value in self.arguments.values() if isinstance(value, Tensor))
        with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
            for first in range(0, self.batch, at_a_time):
                grid = (self.programs * min(at_a_time, self.batch - first), self.blocks)
                self.kernel[grid](
                    **self.arguments, first_batch=first, **self.constants, num_warps=self.warps, num_stages=self.stages
                )


def upcast(tensor: Tensor) -> bool:
    """The interpreter takes bfloat16 for integers in dot and sum."""
    return INTERPRETED and tensor.dtype == torch.bfloat16
