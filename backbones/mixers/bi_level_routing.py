"""Bi-level routing attention: regions choose regions, tokens attend to those (BiFormer, arXiv:2303.08810)."""

import math
from collections.abc import Callable, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import bi_level_routing_attention
from ...kernels.bi_level_routing import Routing, empty_regions, region_means, route
from ...registry import MIXERS
from ..layers import DepthwiseConv, Linear, crop, pad_to_multiple, window_partition, window_reverse

PADDINGS = ("input", "qkv", "error")
LEPES = ("v", "x", None)


def _adaptive(pool: Callable[..., Tensor], x: Tensor, per_win: int, ratio: int) -> Tensor:
    return pool(x, per_win)


def _strided(pool: Callable[..., Tensor], x: Tensor, per_win: int, ratio: int) -> Tensor:
    return pool(x, tuple(min(ratio, side) for side in x.shape[2:]))


# From (N, C, h, w), a region each, to fewer tokens: kv_per_win a side, or one for kv_downsample_ratio a side.
POOLS = {
    "identity": None,
    "ada_avgpool": partial(_adaptive, F.adaptive_avg_pool2d),
    "ada_maxpool": partial(_adaptive, F.adaptive_max_pool2d),
    "avgpool": partial(_strided, F.avg_pool2d),
    "maxpool": partial(_strided, F.max_pool2d),
}


@MIXERS.register_module()
class BiLevelRouting(nn.Module):
    """Every token attends to the tokens of the few regions that its own is routed to: (B, H, W, C) -> (B, H, W, C).

    The map is cut into `n_win` x `n_win` regions, whatever its size. A map that they do not divide is padded with zeros
    at the bottom and the right, and the padding takes part, as in the released networks.

    Args:
        dim: channels.
        num_heads: heads; None has one for 32 channels. All share the routing.
        n_win: regions a side, or rows and columns of them: a number of windows, not their size. The released networks
            take 7 on pictures of 224, 8 on crops of 512, 16 in detection, with the same weights.
        topk: regions that each attends to, at least 1. (What BiFormer's configs write as 0, -1 and -2 are other mixers:
            DepthwiseMixing, SelfAttention and LepeAttention.)
        qk_dim: channels of queries and keys; None: `dim`. Their square root divides the scores, not a head's.
        lepe_of: what the depthwise convolution that is added to the attention sees: 'v', the values; 'x', the input;
            None: there is none.
        side_dwconv: side of its kernel in tokens; odd.
        kv_downsample_mode: 'identity'; 'ada_avgpool' or 'ada_maxpool', keys and values of a region pooled to
            `kv_per_win` a side; 'avgpool' or 'maxpool', to one for `kv_downsample_ratio` a side.
        soft_routing: multiply the chosen regions' keys and values by the softmax of their scores.
        diff_routing: let gradients through those weights; by default the routing is detached.
        param_routing: a learned projection, shared by the means of queries and keys, before the routing.
        padding: 'input', zeros before the projection, as released: padded tokens bear its bias. 'qkv', the rewrite for
            NCHW maps: regions of (H // n_win) x (W // n_win) tokens, be there as many of them as it takes, zeros for
            queries, keys and values; the regions' means leave them out. 'error' refuses maps that are not divided.
        mask_padding: keep padded tokens out of the regions' means and the softmax (and from the convolution): what a
            map gives then depends on its tokens alone.

    Raises:
        ValueError: arguments that do not fit one another; a map that `n_win` does not divide, with padding='error'.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        n_win: int | Sequence[int] = 7,
        topk: int = 4,
        qk_dim: int | None = None,
        lepe_of: str | None = "v",
        side_dwconv: int = 5,
        kv_downsample_mode: str = "identity",
        kv_per_win: int = 4,
        kv_downsample_ratio: int = 4,
        soft_routing: bool = False,
        diff_routing: bool = False,
        param_routing: bool = False,
        padding: str = "input",
        mask_padding: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = max(dim // 32, 1) if num_heads is None else num_heads
        self.qk_dim = dim if qk_dim is None else qk_dim
        if dim % self.num_heads or self.qk_dim % self.num_heads:
            raise ValueError(
                f"BiLevelRouting: num_heads {self.num_heads} must divide dim {dim} and qk_dim {self.qk_dim}"
            )
        self.n_win = (n_win, n_win) if isinstance(n_win, int) else tuple(n_win)
        if len(self.n_win) != 2 or min(self.n_win) < 1:
            raise ValueError(f"BiLevelRouting: n_win {n_win} must be regions a side, or rows and columns, of 1 up")
        if topk < 1:
            raise ValueError(
                f"BiLevelRouting: topk {topk} must be at least 1; what BiFormer writes as 0, -1 and -2 are the mixers "
                "DepthwiseMixing, SelfAttention and LepeAttention"
            )
        if topk > math.prod(self.n_win):
            raise ValueError(
                f"BiLevelRouting: topk {topk} is more than the {self.n_win[0]} x {self.n_win[1]} regions of n_win"
            )
        for name, value, choices in (
            ("lepe_of", lepe_of, LEPES),
            ("kv_downsample_mode", kv_downsample_mode, tuple(POOLS)),
            ("padding", padding, PADDINGS),
        ):
            if value not in choices:
                raise ValueError(f"BiLevelRouting: {name} {value!r} must be one of {', '.join(map(str, choices))}")
        if min(kv_per_win, kv_downsample_ratio) < 1:
            raise ValueError(
                f"BiLevelRouting: kv_per_win {kv_per_win} and kv_downsample_ratio {kv_downsample_ratio} must be 1 up"
            )
        if diff_routing and not soft_routing:
            raise ValueError("BiLevelRouting: diff_routing=True has weights to derive with soft_routing=True alone")
        if param_routing and not diff_routing:
            raise ValueError("BiLevelRouting: param_routing=True would learn nothing without diff_routing=True")
        self.topk, self.scale = topk, self.qk_dim**-0.5
        self.lepe_of, self.padding, self.mask_padding = lepe_of, padding, mask_padding
        self.kv_downsample_mode, self.kv_per_win, self.kv_ratio = kv_downsample_mode, kv_per_win, kv_downsample_ratio
        self.soft_routing, self.diff_routing = soft_routing, diff_routing
        self.qkv = Linear(dim, 2 * self.qk_dim + dim)
        self.router = Linear(self.qk_dim, self.qk_dim) if param_routing else None
        self.lepe = None if lepe_of is None else DepthwiseConv(dim, side_dwconv)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        size = (x.shape[1], x.shape[2])
        grid, multiple = self._cut(size)
        padded = bool(size[0] % multiple[0] or size[1] % multiple[1])
        if padded and self.padding == "error":
            raise ValueError(
                f"BiLevelRouting: {self.n_win[0]} x {self.n_win[1]} regions of n_win do not divide a map of "
                f"{size[0]} x {size[1]}: change n_win or the picture's size, or take padding='input'"
            )
        early = self.padding == "input" and not self.mask_padding
        if early:
            x = pad_to_multiple(x, multiple)
        qkv = self.qkv(x)
        widths = self.qk_dim, self.qk_dim, x.shape[-1]
        lepe = None
        if self.lepe is not None:
            lepe = self.lepe(x if self.lepe_of == "x" else qkv.split(widths, -1)[2])
        real = None  # which tokens are no padding, where that counts
        if padded and not early:
            qkv, lepe = pad_to_multiple(qkv, multiple), None if lepe is None else pad_to_multiple(lepe, multiple)
            real = pad_to_multiple(x.new_ones(len(x), *size, 1, dtype=torch.bool), multiple)[..., 0]
        q, k, v = qkv.split(widths, -1)
        routing = self._route(q, k, grid, real)
        mask = real if self.mask_padding else None
        if self.kv_downsample_mode != "identity":
            kv, mask = self._pool(qkv[..., self.qk_dim :], grid, mask)
            k, v = kv.split(widths[1:], -1)
        topk = routing.index.shape[-1]
        q, k, v, lepe = (None if y is None else y.unflatten(-1, (self.num_heads, -1)) for y in (q, k, v, lepe))
        out = bi_level_routing_attention(q, k, v, grid, topk, self.scale, lepe, mask, routing).flatten(3)
        return self.proj(crop(out, size).contiguous())

    def _cut(self, size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
        """Rows and columns of regions, and the sides that the map's have to be multiples of."""
        if self.padding != "qkv":
            return self.n_win, self.n_win
        # Where there are fewer tokens than n_win, which the rewrite cannot take, a region is one token.
        sides = tuple(max(length // count, 1) for length, count in zip(size, self.n_win, strict=True))
        return tuple(-(-length // side) for length, side in zip(size, sides, strict=True)), sides

    def _route(self, q: Tensor, k: Tensor, grid: tuple[int, int], real: Tensor | None) -> Routing:
        if not self.diff_routing:
            q, k = q.detach(), k.detach()
        means = [region_means(y, grid, real) for y in (q, k)]
        if self.router is not None:
            means = [self.router(mean.to(self.router.weight.dtype)) for mean in means]
        empty = None if real is None else empty_regions(real, grid)
        return route(*means, min(self.topk, math.prod(grid)), self.scale, empty, self.soft_routing)

    def _pool(self, kv: Tensor, grid: tuple[int, int], mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Fewer tokens a region: (B, H, W, C) -> (B, H', W', C), and the mask of these, if there is one."""
        pool = partial(POOLS[self.kv_downsample_mode], per_win=self.kv_per_win, ratio=self.kv_ratio)
        sides = kv.shape[1] // grid[0], kv.shape[2] // grid[1]
        kv = window_partition(kv, sides).unflatten(1, sides).permute(0, 3, 1, 2)  # a region each, (N, C, h, w)
        if mask is None:
            kv = pool(kv)
        else:
            real = window_partition(mask[..., None].to(kv.dtype), sides).unflatten(1, sides).permute(0, 3, 1, 2)
            share = pool(real)  # not 0 where a pooled token has at least one that counts
            mask = share > 0
            if self.kv_downsample_mode.endswith("maxpool"):
                kv = pool(kv.masked_fill(real == 0, torch.finfo(kv.dtype).min))
            else:  # a mean over all, of which the padding is zeros: over those that count
                kv = pool(kv.masked_fill(real == 0, 0)) / share.where(mask, 1)
            kv = kv.masked_fill(~mask, 0)
        pooled = tuple(kv.shape[2:])
        size = grid[0] * pooled[0], grid[1] * pooled[1]
        if mask is not None:
            mask = window_reverse(mask.permute(0, 2, 3, 1).flatten(1, 2), pooled, size)[..., 0]
        return window_reverse(kv.permute(0, 2, 3, 1).flatten(1, 2), pooled, size), mask
