"""Activations with learned scalars, and the MLP that goes with them."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class StarReLU(nn.Module):
    """s relu(x)^2 + b with one learned s and one learned b for all channels (arXiv:2210.13452). Any shape.

    Args:
        scale, bias: initial values of s and b; the release begins with a plain squared ReLU.
    """

    def __init__(self, scale: float = 1.0, bias: float = 0.0) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), scale))
        self.bias = nn.Parameter(torch.full((1,), bias))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * F.relu(x).square() + self.bias


class StarMlp(nn.Module):
    """Linear, StarReLU, linear, without biases: (..., C) -> (..., C)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim, bias=False)
        self.act = StarReLU()
        self.fc2 = nn.Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        # s and b go into the second layer's weights, which are fewer than the hidden values.
        weight, act = self.fc2.weight, self.act
        hidden = F.relu(self.fc1(x), inplace=True).square()
        return F.linear(hidden, weight * act.scale, weight.sum(dim=1) * act.bias)
