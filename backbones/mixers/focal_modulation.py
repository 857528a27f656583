"""Focal modulation (FocalNet, arXiv:2203.11926)."""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import Act, DepthwiseConv, Linear, linear
from ..layers.linear import autocasts


class _ModulatedLinear(torch.autograd.Function):
    """A linear layer of query times modulator, whose product is made again in the backward pass, not kept.

    Query and modulator are kept in any case; the product is one cheap pass, and a map of every block in memory.
    """

    @staticmethod
    def forward(query: Tensor, modulator: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return linear(query * modulator, weight, bias)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:3])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        query, modulator, weight = ctx.saved_tensors
        d_product, rows = linear(grad, weight.t()), grad.flatten(0, -2)
        d_weight = rows.t() @ (query * modulator).flatten(0, -2)
        return d_product * modulator, d_product * query, d_weight, rows.sum(dim=0)


@MIXERS.register_module()
class FocalModulation(nn.Module):
    """Each token's query times a summary of its surroundings, near and far: (B, H, W, C) -> (B, H, W, C).

    A linear layer gives queries, a context and gates. Depthwise convolutions with kernels that grow, a GELU after each,
    widen the context level by level; the mean over the map is the last level. The gates, one a pixel and level, weigh
    the levels' sum. No attention, no position: any size of map.

    Args:
        dim: channels.
        focal_levels: convolutions in a row.
        focal_window: side of the first kernel in tokens; odd. Each next one is 2 wider.
        normalize_modulator: divide the sum by the number of levels, the mean over the map included.
        modulation_norm: layer norm before the last layer, as the huge networks have it.

    Raises:
        ValueError: `focal_window` is even, or there is no level.
    """

    def __init__(
        self,
        dim: int,
        focal_levels: int = 2,
        focal_window: int = 3,
        normalize_modulator: bool = False,
        modulation_norm: bool = False,
    ) -> None:
        super().__init__()
        if focal_levels < 1:
            raise ValueError(f"FocalModulation: focal_levels {focal_levels} must be at least 1")
        if focal_window % 2 == 0:
            raise ValueError(f"FocalModulation: focal_window {focal_window} must be odd")
        self.dim, self.focal_levels, self.normalize_modulator = dim, focal_levels, normalize_modulator
        self.f = Linear(dim, 2 * dim + focal_levels + 1)
        self.focal_layers = nn.ModuleList(
            DepthwiseConv(dim, focal_window + 2 * level, bias=False) for level in range(focal_levels)
        )
        self.act = Act("gelu")
        self.h = Linear(dim, dim)
        self.norm = nn.LayerNorm(dim) if modulation_norm else nn.Identity()
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        query, context, gates = self.f(x).split((self.dim, self.dim, self.focal_levels + 1), dim=-1)
        if self.normalize_modulator:
            gates = gates / (self.focal_levels + 1)  # a few channels, in place of the sum's many
        summary = None
        for level, layer in enumerate(self.focal_layers):
            context, gate = self.act(layer(context)), gates[..., level : level + 1]
            summary = context * gate if summary is None else torch.addcmul(summary, context, gate)
        whole = F.gelu(context.mean(dim=(1, 2), keepdim=True))
        summary = torch.addcmul(summary, whole, gates[..., self.focal_levels :])
        modulator = self.h(summary)
        if self._keeps_no_product(x):
            return _ModulatedLinear.apply(query, modulator, self.proj.weight, self.proj.bias)
        return self.proj(self.norm(query * modulator))

    def _keeps_no_product(self, x: Tensor) -> bool:
        # The norm would keep it anyway; autocast chooses dtypes, and a compiler what to keep, by themselves.
        chosen = autocasts(x.device) or torch.compiler.is_compiling()
        return torch.is_grad_enabled() and not chosen and isinstance(self.norm, nn.Identity)
