"""Activation functions, and a linear layer that has one in the same pass."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from .linear import by_onednn, linear, product, records

ACTS = ("gelu", "gelu_tanh", "silu")


class Act(nn.Module):
    """An activation function by name; it overwrites its input where no gradient is asked for.

    Memory for a second wide map costs more time than the function itself. For inputs that nothing else uses.

    Args:
        name: 'gelu', 'gelu_tanh' or 'silu'.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in ACTS:
            raise ValueError(f"Act: no activation {name!r}; there are {', '.join(ACTS)}")
        self.name = name

    def extra_repr(self) -> str:
        return self.name

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "silu":
            return F.silu(x, inplace=not x.requires_grad)
        approximate = "tanh" if self.name == "gelu_tanh" else "none"
        if x.requires_grad:
            return F.gelu(x, approximate=approximate)
        return torch.ops.aten.gelu_(x, approximate=approximate)


def linear_act(x: Tensor, weight: Tensor, bias: Tensor | None, act: Act) -> Tensor:
    """A linear layer and its activation: (..., C_in), weight (C_out, C_in) -> (..., C_out)."""
    if by_onednn(x, weight) and not records(x, weight):
        return product(x, weight, bias, act.name)
    return act(linear(x, weight, bias))


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
