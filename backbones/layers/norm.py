"""Normalisation of channels-last maps."""

import torch.nn.functional as F
from torch import Tensor, nn


class GroupNorm1(nn.GroupNorm):
    """Group norm (arXiv:1803.08494) with one group, channels last: statistics over H, W and C of each picture together.

    Not a channel layer norm: all pixels share one mean and one variance. Scale and shift are a channel's.
    (B, H, W, C) -> (B, H, W, C).

    Args:
        bias: whether there is a shift.
    """

    def __init__(self, dim: int, eps: float = 1e-5, bias: bool = True) -> None:
        super().__init__(1, dim, eps)
        if not bias:
            self.register_parameter("bias", None)

    def forward(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)
        return F.group_norm(x, 1, self.weight, self.bias, self.eps).permute(0, 2, 3, 1)
