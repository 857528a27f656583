"""Recomputing a block's activations in the backward pass, with batch norms that count a batch once."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils.checkpoint import checkpoint


def recomputed(block: nn.Module, x: Tensor) -> Tensor:
    """`block(x)`, of which only `x` is kept for the backward pass; random decisions are made again as they were.

    torch's checkpoint alone would put each batch into the running statistics of batch norms twice.
    """
    norms = [module for module in block.modules() if isinstance(module, _NormBase) and module.training]
    if not norms or torch.compiler.is_compiling():  # a compiled graph has no second pass over statistics
        return checkpoint(block, x, use_reentrant=False)
    return checkpoint(
        block, x, use_reentrant=False, context_fn=lambda: (contextlib.nullcontext(), _still_statistics(norms))
    )


@contextlib.contextmanager
def _still_statistics(norms: Sequence[_NormBase]) -> Iterator[None]:
    """Norms as in training, with running statistics that take nothing in."""
    kept = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
        if norm.num_batches_tracked is not None:
            norm.num_batches_tracked = torch.zeros_like(norm.num_batches_tracked)  # SyncBatchNorm wants one to count in
    try:
        yield
    finally:
        for norm, momentum, batches in kept:
            norm.momentum, norm.num_batches_tracked = momentum, batches
