"""The four-way selective scan of VMamba (arXiv:2401.10166), as in its first version and in VM-UNet."""

import torch.nn.functional as F
from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import DepthwiseConv, Linear
from ..layers.routes import scan_table
from .multi_head_scan import CHANNELS_A_RANK, ScanCoefficients

ORDER = (0, 2, 1, 3)  # rows, columns, rows reversed, columns reversed: the released weights' order


@MIXERS.register_module()
class SS2D(nn.Module):
    """All channels scanned along rows and columns, to and fro, and summed: (B, H, W, C) -> (B, H, W, C).

    A linear layer splits into tokens and gates; the tokens pass a 3 x 3 depthwise convolution, SiLU, the scan and a
    norm, are multiplied by SiLU of the gates, and projected. Any size of map.

    Args:
        dim: channels.
        d_state: states a channel.
        expand: inner channels to `dim`.

    Raises:
        ValueError: `expand` or `d_state` is not positive.
    """

    def __init__(self, dim: int, d_state: int = 16, expand: float = 2.0) -> None:
        super().__init__()
        inner = int(expand * dim)
        if inner < 1 or d_state < 1:
            raise ValueError(f"SS2D: expand {expand} of {dim} channels and d_state {d_state} must give at least 1")
        self.in_proj = Linear(dim, 2 * inner, bias=False)
        self.conv = DepthwiseConv(inner, 3)
        self.scan = ScanCoefficients(4, inner, d_state, -(-dim // CHANNELS_A_RANK))
        self.norm = nn.LayerNorm(inner)
        self.out_proj = Linear(inner, dim, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, _ = x.shape
        x, gate = self.in_proj(x).chunk(2, dim=-1)
        u = F.silu(self.conv(x)).reshape(batch, height * width, 1, x.shape[-1])
        table = scan_table(("raster",), height, width, x.device)[list(ORDER)]
        y = self.scan(u, table).sum(dim=2).reshape(gate.shape)
        return self.out_proj(self.norm(y) * F.silu(gate))
