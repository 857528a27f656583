"""Max pooling that keeps little for its derivative."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .linear import records


class MaxPool(nn.Module):
    """Max pooling by 3 x 3, stride 2: (B, C, H, W) -> (B, C, ceil(H / 2), ceil(W / 2)).

    PyTorch's keeps its input for the derivative, of which it needs the shape alone: behind a stem that is a map of half
    the picture's resolution.
    """

    def forward(self, x: Tensor) -> Tensor:
        if records(x):
            return _MaxPool.apply(x)
        return F.max_pool2d(x, 3, 2, 1)


class _MaxPool(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        out, indices = F.max_pool2d(x, 3, 2, 1, return_indices=True)
        ctx.save_for_backward(indices)
        ctx.shape = x.shape
        return out

    @staticmethod
    def backward(ctx: Any, d_out: Tensor) -> Tensor:
        (indices,) = ctx.saved_tensors
        # Its values are not read, so that the system does not even give it memory.
        shape_of = torch.empty(ctx.shape, dtype=d_out.dtype, device=d_out.device, memory_format=torch.channels_last)
        return torch.ops.aten.max_pool2d_with_indices_backward(
            d_out, shape_of, [3, 3], [2, 2], [1, 1], [1, 1], False, indices
        )
