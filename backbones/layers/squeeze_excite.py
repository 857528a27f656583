"""Squeeze and excitation (Hu et al., CVPR 2018, arXiv:1709.01507)."""

from collections.abc import Callable

from torch import Tensor, nn

from .linear import Linear


class SqueezeExcite(nn.Module):
    """The factor in 0..1 of each picture and channel, which the means of all channels decide: (B, H, W, C) -> (B, C).

    Args:
        dim: channels.
        hidden_dim: channels between the two layers.
        act: function after the first layer.
    """

    def __init__(self, dim: int, hidden_dim: int, act: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc1, self.fc2, self.act = Linear(dim, hidden_dim), Linear(hidden_dim, dim), act

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(self.act(self.fc1(x.mean(dim=(1, 2))))).sigmoid()
