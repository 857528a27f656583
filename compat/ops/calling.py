"""How compiled operators behave when they are called, for operators written in Python."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor


def as_compiled(operator: Callable) -> Callable:
    """Run `operator` as a compiled one runs: outside autograd, and with no autocast changing the dtypes within."""

    @functools.wraps(operator)
    def call(first: Tensor, *args, **kwargs):
        with torch.no_grad(), torch.autocast(first.device.type, enabled=False):
            return operator(first, *args, **kwargs)

    return call


def widened(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The tensors in one dtype, at least float32: half precision has too few digits for coordinates and sums."""
    dtype = functools.reduce(torch.promote_types, (t.dtype for t in tensors), torch.float32)
    return tuple(t.to(dtype) for t in tensors)
