"""The MLPs of transformers: two linear layers and an activation between."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .activation import Act, StarReLU, linear_act
from .linear import Linear, autocasts, linear, records


class Mlp(nn.Module):
    """Linear, activation, linear: (..., C) -> (..., C). In inference the activation is one pass with the first layer.

    Args:
        act: 'gelu', 'gelu_tanh' or 'silu'.
    """

    def __init__(self, dim: int, hidden_dim: int, act: str = "gelu") -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = Linear(dim, hidden_dim), Act(act), Linear(hidden_dim, dim)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """`scale`, (C,), multiplies the result; by way of the last layer, so that no map has to be kept for it."""
        x = linear_act(x, self.fc1.weight, self.fc1.bias, self.act)
        return self.fc2(x) if scale is None else linear(x, self.fc2.weight * scale[:, None], self.fc2.bias * scale)


class _LinearSquaredReLU(torch.autograd.Function):
    """relu(x W^T)^2: (..., C_in) and (C_out, C_in) -> (..., C_out), with few passes over wide maps."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        positive = linear(x, weight).relu_()
        return positive.square(), positive

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor], output: tuple[Tensor, Tensor]) -> None:
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(*inputs, output[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor, _) -> tuple[Tensor | None, Tensor | None]:
        x, weight, positive = ctx.saved_tensors
        d_hidden = (positive * grad).mul_(2)
        d_x = linear(d_hidden, weight.t()) if ctx.needs_input_grad[0] else None
        d_weight = d_hidden.flatten(0, -2).t() @ x.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return d_x, d_weight


class StarMlp(nn.Module):
    """Linear, StarReLU, linear, without biases: (..., C) -> (..., C)."""

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = Linear(dim, hidden_dim, bias=False)
        self.act = StarReLU()
        self.fc2 = Linear(hidden_dim, dim, bias=False)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        """`scale`, (C,), multiplies the result."""
        # All factors go into the second layer's weights, which are fewer than the hidden values.
        weight = self.fc2.weight if scale is None else self.fc2.weight * scale[:, None]
        return linear(self._hidden(x), weight * self.act.scale, weight.sum(dim=1) * self.act.bias)

    def _hidden(self, x: Tensor) -> Tensor:
        weight = self.fc1.weight
        if torch.compiler.is_compiling() or autocasts(x.device):
            return F.relu(linear(x, weight)).square()
        if records(x, weight):
            return _LinearSquaredReLU.apply(x, weight)[0]
        return linear(x, weight).relu_().square_()
