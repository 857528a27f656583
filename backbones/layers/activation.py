"""StarReLU, and the MLP that goes with it."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .linear import Linear, linear, records


def _autocast(device: torch.device) -> bool:
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


class _StarReLU(torch.autograd.Function):
    """PyTorch would keep three maps for the backward pass, and go over memory seven times; x alone is enough."""

    @staticmethod
    def forward(x: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
        return F.relu(x).square_().mul_(scale).add_(bias)

    @staticmethod
    def setup_context(ctx, inputs: tuple[Tensor, Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x, scale = ctx.saved_tensors
        positive = F.relu(x)
        d_x = positive * grad
        d_scale = positive.mul_(d_x).sum().view(1)
        return d_x.mul_(2 * scale), d_scale, grad.sum().view(1)


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


class StarReLU(nn.Module):
    """s relu(x)^2 + b with one learned s and one learned b for all channels (arXiv:2210.13452). Any shape.

    Args:
        scale, bias: initial values of s and b; the release begins with a plain squared ReLU.
        inplace: overwrite the input where no gradient is recorded: memory for a second wide map costs more time than
            the function itself.
    """

    def __init__(self, scale: float = 1.0, bias: float = 0.0, inplace: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((1,), scale))
        self.bias = nn.Parameter(torch.full((1,), bias))
        self.inplace = inplace

    def forward(self, x: Tensor) -> Tensor:
        if torch.compiler.is_compiling():  # one loop for all of it, once compiled
            return self.scale * F.relu(x).square() + self.bias
        if records(x, self.scale, self.bias):
            return _StarReLU.apply(x, self.scale, self.bias)
        return F.relu(x, inplace=self.inplace).square_().mul_(self.scale).add_(self.bias)


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
        if torch.compiler.is_compiling() or _autocast(x.device):
            return F.relu(linear(x, weight)).square()
        if records(x, weight):
            return _LinearSquaredReLU.apply(x, weight)[0]
        return linear(x, weight).relu_().square_()
