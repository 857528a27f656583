"""Multi-head scan of MHS-VM (arXiv:2406.05992)."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels import scan_routes
from ...registry import MIXERS
from ..layers import DepthwiseConv, Linear
from ..layers.routes import ROUTES_OF_A_PATTERN, check_patterns, scan_table

CHANNELS_A_RANK = 16  # of the step sizes' projection


class ScanCoefficients(nn.Module):
    """What makes a selective scan of tokens: A and D a channel, B, C and step sizes a token; of R routes.

    Args:
        routes: R, how many routes have coefficients of their own.
        dim: D, channels of a map.
        d_state: N, states a channel.
        dt_rank: rank of the projection to step sizes.
    """

    NO_WEIGHT_DECAY = ("dt_bias", "A_log", "D")

    def __init__(self, routes: int, dim: int, d_state: int, dt_rank: int) -> None:
        super().__init__()
        self.dt_rank, self.d_state = dt_rank, d_state
        self.x_proj = nn.Parameter(torch.empty(routes, dt_rank + 2 * d_state, dim))
        self.dt_proj = nn.Parameter(torch.empty(routes, dim, dt_rank))
        self.dt_bias = nn.Parameter(torch.empty(routes, dim))
        self.A_log = nn.Parameter(torch.empty(routes, dim, d_state))
        self.D = nn.Parameter(torch.ones(routes, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mamba's (arXiv:2312.00752): steps between 0.001 and 0.1, decays of 1 to N; a linear layer's for `x_proj`."""
        nn.init.uniform_(self.x_proj, -(self.x_proj.shape[2] ** -0.5), self.x_proj.shape[2] ** -0.5)
        nn.init.uniform_(self.dt_proj, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        with torch.no_grad():
            step = torch.empty_like(self.dt_bias).uniform_(math.log(1e-3), math.log(0.1)).exp().clamp_min(1e-4)
            self.dt_bias.copy_(step + torch.log(-torch.expm1(-step)))  # softplus brings it back
            self.A_log.copy_(torch.arange(1, self.d_state + 1, dtype=self.A_log.dtype).log().expand_as(self.A_log))

    def forward(self, u: Tensor, table: Tensor) -> Tensor:
        """Maps (B, L, G, D) along the routes (R, L), R / G of them a map -> (B, L, R, D), float32 under autocast."""
        maps = u.shape[2]
        by_map = self.x_proj.unflatten(0, (maps, -1))
        x = torch.einsum("blgd,grxd->blgrx", u, by_map).flatten(2, 3)
        dt, b, c = x.split((self.dt_rank, self.d_state, self.d_state), dim=-1)
        delta = torch.einsum("blrk,rdk->blrd", dt, self.dt_proj)
        wide = torch.promote_types(u.dtype, torch.float32)  # the recurrence and its sums are never in 16 bit
        return scan_routes(u.to(wide), table, delta, -self.A_log.exp(), b, c, self.D, self.dt_bias, True)


def route_attention(y: Tensor, threshold: float) -> Tensor:
    """Scan-route attention: (..., R, D) -> (..., D), the sum of the routes where they differ.

    Its factor is the coefficient of variation over the routes, less `threshold`, cut at 0. The least value is taken off
    before the mean, and the deviation is the sample's (divisor R - 1).
    """
    shifted = y - y.amin(dim=-2, keepdim=True)  # the routes differ little: the mean of all of it would be rounded
    mean = shifted.mean(dim=-2, keepdim=True)
    variance = (shifted - mean).square().sum(dim=-2) / (y.shape[-2] - 1)
    varied = variance > 0  # the root has no slope at 0
    deviation = torch.where(varied, variance, 1.0).sqrt() * varied
    variation = deviation / (mean.squeeze(-2) + 1e-5)
    return y.sum(dim=-2) * F.relu(variation - threshold)


class ScanHeads(nn.Module):
    """The channels in sub-spaces, a head each, and each scanned by a pattern of its own: (B, H, W, C) -> the same.

    Args:
        dim: channels; a multiple of the patterns.
        patterns: of each head; see `layers.routes.PATTERNS`.
        d_state: N, states a channel.
        threshold: of the scan-route attention.
        with_proj: whether norm and projection join the heads.
    """

    def __init__(self, dim: int, patterns: tuple[str, ...], d_state: int, threshold: float, with_proj: bool) -> None:
        super().__init__()
        self.patterns, self.threshold = patterns, threshold
        heads, width = len(patterns), dim // len(patterns)
        self.split = Linear(dim, dim, bias=False)
        rank = -(-width // CHANNELS_A_RANK)
        self.scan = ScanCoefficients(heads * ROUTES_OF_A_PATTERN, width, d_state, rank)
        self.norm = nn.LayerNorm(dim) if with_proj else nn.Identity()
        self.proj = Linear(dim, dim, bias=False) if with_proj else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, dim = x.shape
        heads = len(self.patterns)
        u = self.split(x).view(batch, height * width, heads, dim // heads)
        y = self.scan(u, scan_table(self.patterns, height, width, x.device))
        y = route_attention(y.unflatten(2, (heads, ROUTES_OF_A_PATTERN)), self.threshold)
        return self.proj(self.norm(y.reshape(batch, height, width, dim)))


@MIXERS.register_module()
class MultiHeadScan(nn.Module):
    """Selective scans of sub-spaces along different routes: (B, H, W, C) -> (B, H, W, C).

    A linear layer splits into tokens and gates; the tokens pass a 3 x 3 depthwise convolution, SiLU, the heads and a
    norm, and are multiplied by SiLU of the gates. A head scans its share of the channels along two routes, each to and
    fro, and takes their sum where the four differ (`route_attention`). Routes hold no weights: any size of map.

    Args:
        dim: channels; a multiple of the number of patterns.
        patterns: a scan pattern a head: 'continuous' (rows and columns in serpentines), 'diagonal', 'spiral', 'raster'.
        d_state: states a channel.
        threshold: of the coefficient of variation over the routes, below which nothing passes; not learnt. Fresh routes
            give nearly the same: above 0 few values pass at first, in narrow networks none, and none is then learnt.
        with_proj: whether norm and projection join the heads.
        gated: whether there are gates; without them there is no first linear layer either.

    Raises:
        ValueError: no such pattern; `dim` is not a multiple of their number.
    """

    def __init__(
        self,
        dim: int,
        patterns: tuple[str, ...] = ("continuous", "diagonal", "spiral", "raster"),
        d_state: int = 16,
        threshold: float = 0.0,
        with_proj: bool = True,
        gated: bool = True,
    ) -> None:
        super().__init__()
        patterns = tuple(patterns)
        check_patterns("MultiHeadScan", patterns)
        if dim % len(patterns):
            raise ValueError(
                f"MultiHeadScan: dim {dim} must be a multiple of the {len(patterns)} patterns {', '.join(patterns)}"
            )
        if d_state < 1:
            raise ValueError(f"MultiHeadScan: d_state {d_state} must be at least 1")
        self.in_proj = Linear(dim, 2 * dim, bias=False) if gated else None
        self.conv = DepthwiseConv(dim, 3)
        self.heads = ScanHeads(dim, patterns, d_state, threshold, with_proj)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        if self.in_proj is None:
            return self.norm(self.heads(F.silu(self.conv(x))))
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        return self.norm(self.heads(F.silu(self.conv(x)))) * F.silu(gate)
