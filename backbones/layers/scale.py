"""A learned factor a channel."""

import torch
from torch import Tensor, nn


class Scale(nn.Module):
    """(..., C) times a learned (C,): layer scale (CaiT, arXiv:2103.17239) and residual scale (arXiv:2110.09456)."""

    def __init__(self, dim: int, init: float) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((dim,), init))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale
