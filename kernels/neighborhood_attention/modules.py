"""Neighborhood attention as a layer: projections, heads, relative position bias (arXiv:2204.07143, 2209.15001).

A superset of NATTEN 0.21's modules (their arguments in their order), with what the released NAT and DiNAT weights
need: the bias table `rpb`, and the padding of maps that are smaller than the window. Parameters bear the names of those
weights: `qkv`, `proj`, `rpb`.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...errors import InputError
from .arguments import check_window
from .dispatch import neighborhood_attention

SMALL_MAPS = ("pad", "mask", "error")
HIDDEN = -3e4  # a score at which the exponential is 0, and which float16 can hold


class NeighborhoodAttention(nn.Module):
    """Projects tokens to queries, keys and values, lets every token attend to its neighbors, and projects back.

    Use `NeighborhoodAttention1D`, `2D` or `3D`.

    Args:
        embed_dim: channels of the input and output.
        num_heads: heads; they divide `embed_dim`.
        kernel_size, stride, dilation, is_causal: the window, one value or one an axis; see `neighborhood_attention`.
        qkv_bias: whether the first projection has a bias.
        qk_scale: factor on the scores, head width ** -0.5 if None.
        proj_drop: dropout after the last projection.
        rel_pos_bias: learn `rpb`, (num_heads, 2 * kernel_size - 1 an axis), added to the scores by distance. The
            released NAT and DiNAT weights have it; not with causal axes.
        attn_drop: must be 0. Dropout of attention weights would need them in memory, which fused attention never has;
            no released NAT or DiNAT used it.
        num_kv_heads: heads of keys and values, a divisor of `num_heads` (fewer: grouped-query attention).
        small_maps: what to do where an axis is shorter than kernel_size * dilation. 'pad' (default) appends zeros to
            the *input* at the end of the axis and crops the output, as NATTEN did while the released weights were
            trained: the padding passes through `qkv`, whose bias it then bears, and it takes part. 'mask' appends it
            too, but hides it from every query. 'error' raises, as NATTEN does since 0.17.
        backend: None takes the fastest that can serve; a name insists on that one.

    Shapes: (B, L, C), (B, X, Y, C) or (B, X, Y, Z, C) -> the same; the dtype is the input's.

    Raises:
        InputError (a ValueError): arguments that do not fit one another.
    """

    axes: int

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        dilation: int | Sequence[int] = 1,
        is_causal: bool | Sequence[bool] = False,
        qkv_bias: bool = True,
        qk_scale: float | None = None,
        proj_drop: float = 0.0,
        rel_pos_bias: bool = False,
        attn_drop: float = 0.0,
        num_kv_heads: int | None = None,
        small_maps: str = "pad",
        backend: str | None = None,
    ) -> None:
        super().__init__()
        name = type(self).__name__
        num_kv_heads = num_heads if num_kv_heads is None else num_kv_heads
        if num_heads < 1 or embed_dim % num_heads:
            raise InputError(f"{name}: embed_dim {embed_dim} must be a multiple of num_heads, got {num_heads}")
        if num_kv_heads < 1 or num_heads % num_kv_heads:
            raise InputError(f"{name}: num_kv_heads must divide num_heads {num_heads}, got {num_kv_heads}")
        if attn_drop:
            raise InputError(
                f"{name}: attn_drop must be 0, got {attn_drop}: fused attention never holds the weights that it would "
                "drop; use proj_drop, or drop path around the layer"
            )
        if small_maps not in SMALL_MAPS:
            raise InputError(f"{name}: small_maps must be one of {', '.join(SMALL_MAPS)}, got {small_maps!r}")
        self.window = check_window(self.axes, kernel_size, stride, dilation, is_causal)
        if rel_pos_bias and any(self.window.is_causal):
            raise InputError(f"{name}: rel_pos_bias is not defined for causal axes: leave out one of the two")
        self.embed_dim, self.num_heads, self.num_kv_heads = embed_dim, num_heads, num_kv_heads
        self.head_dim = embed_dim // num_heads
        self.scale = self.head_dim**-0.5 if qk_scale is None else qk_scale
        self.small_maps, self.backend = small_maps, backend
        self.qkv = nn.Linear(embed_dim, embed_dim + 2 * num_kv_heads * self.head_dim, bias=qkv_bias)
        self.rpb = None
        if rel_pos_bias:
            self.rpb = nn.Parameter(torch.empty(num_heads, *(2 * k - 1 for k in self.window.kernel_size)))
            nn.init.trunc_normal_(self.rpb, std=0.02)
        self.proj = nn.Linear(embed_dim, embed_dim)
        self.proj_drop = nn.Dropout(proj_drop)

    def forward(self, x: Tensor) -> Tensor:
        """(B, *S, C) -> (B, *S, C)."""
        if x.ndim != self.axes + 2 or x.shape[-1] != self.embed_dim:
            axes = ", ".join("XYZ"[: self.axes]) if self.axes > 1 else "L"
            raise InputError(
                f"{type(self).__name__}: input must be (B, {axes}, {self.embed_dim}), got {tuple(x.shape)}"
            )
        spatial = x.shape[1:-1]
        least = [k * d for k, d in zip(self.window.kernel_size, self.window.dilation, strict=True)]
        missing = [max(0, need - length) for need, length in zip(least, spatial, strict=True)]
        padded = any(missing) and self.small_maps != "error"
        if padded:
            x = F.pad(x, (0, 0, *(n for after in reversed(missing) for n in (0, after))))
        width = self.num_kv_heads * self.head_dim
        parts = self.qkv(x).split([self.embed_dim, width, width], -1)
        # Three views of one tensor: the kernels take them as they lie.
        q, k, v = (part.unflatten(-1, (-1, self.head_dim)) for part in parts)
        scale = self.scale
        if padded and self.small_maps == "mask":
            (q, k), scale = self._hide_padding(q * scale, k, spatial), 1.0
        x = neighborhood_attention(
            q,
            k,
            v,
            self.window.kernel_size,
            dilation=self.window.dilation,
            stride=self.window.stride,
            is_causal=self.window.is_causal,
            rel_pos_bias=self.rpb,
            scale=scale,
            backend=self.backend,
        ).flatten(-2)
        if padded:
            x = x[(slice(None), *(slice(length) for length in spatial))]
        return self.proj_drop(self.proj(x))

    @staticmethod
    def _hide_padding(q: Tensor, k: Tensor, spatial: Sequence[int]) -> tuple[Tensor, Tensor]:
        """One more channel, 1 in queries and HIDDEN in keys beyond `spatial`: its product is a mask on the scores."""
        hidden = torch.full_like(k[..., :1], HIDDEN)
        hidden[(slice(None), *(slice(length) for length in spatial))] = 0
        return torch.cat([q, torch.ones_like(q[..., :1])], -1), torch.cat([k, hidden], -1)

    def extra_repr(self) -> str:
        window = ", ".join(f"{name}={value}" for name, value in self.window._asdict().items())
        return f"head_dim={self.head_dim}, num_heads={self.num_heads}, {window}, small_maps={self.small_maps!r}"


class NeighborhoodAttention1D(NeighborhoodAttention):
    __doc__ = NeighborhoodAttention.__doc__
    axes = 1


class NeighborhoodAttention2D(NeighborhoodAttention):
    __doc__ = NeighborhoodAttention.__doc__
    axes = 2


class NeighborhoodAttention3D(NeighborhoodAttention):
    __doc__ = NeighborhoodAttention.__doc__
    axes = 3
