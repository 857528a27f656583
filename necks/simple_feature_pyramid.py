"""A pyramid out of one map, for backbones that keep one resolution (ViTDet, arXiv:2203.16527)."""

from collections.abc import Sequence

from mmengine.model import BaseModule
from timm.layers import LayerNorm2d
from torch import Tensor, nn

from ..registry import MODELS


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Maps of strides 4, 8, 16, 32 and coarser out of a map of stride 16, each by itself; nothing flows from one to
    the next.

    The map is made four times and twice as large by 2 x 2 transposed convolutions, taken as it is, and made half as
    large by max pooling; then a 1 x 1 and a 3 x 3 convolution, each with a layer norm over the channels. Outputs beyond
    these four are the coarsest one with every second row and column.

    Args:
        in_channels: channels of the map, a number or a list of one; a multiple of 4.
        out_channels: channels of every output.
        num_outs: how many outputs, 4 or more.
        init_cfg: mmengine's.

    Input: one map (B, C, H, W), or a tuple that holds one. Output: a tuple of `num_outs` maps (B, out_channels, h, w),
    finest first, with 4 H, 2 H, H, H // 2, ... rows.

    Raises:
        ValueError: channels that 4 does not divide; `num_outs` below 4; another number of maps comes in.
    """

    def __init__(
        self,
        in_channels: int | Sequence[int],
        out_channels: int,
        num_outs: int = 5,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg)
        widths = [in_channels] if isinstance(in_channels, int) else list(in_channels)
        if len(widths) != 1:
            raise ValueError(
                f"SimpleFeaturePyramid: in_channels {widths} must be of one map: set out_indices to one stage"
            )
        (dim,) = widths
        if dim % 4:
            raise ValueError(
                f"SimpleFeaturePyramid: in_channels {dim} must be a multiple of 4, which its finest map takes"
            )
        if num_outs < 4:
            raise ValueError(f"SimpleFeaturePyramid: num_outs {num_outs} is less than the 4 levels that it makes")
        self.in_channels, self.num_outs = widths, num_outs
        half, quarter = dim // 2, dim // 4
        scales = (
            (
                nn.Sequential(
                    nn.ConvTranspose2d(dim, half, 2, 2),
                    LayerNorm2d(half),
                    nn.GELU(),
                    nn.ConvTranspose2d(half, quarter, 2, 2),
                ),
                quarter,
            ),
            (nn.ConvTranspose2d(dim, half, 2, 2), half),
            (nn.Identity(), dim),
            (nn.MaxPool2d(2, 2), dim),
        )
        self.levels = nn.ModuleList(
            nn.Sequential(
                scale,
                nn.Conv2d(width, out_channels, 1, bias=False),
                LayerNorm2d(out_channels),
                nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False),
                LayerNorm2d(out_channels),
            )
            for scale, width in scales
        )

    def forward(self, maps: Tensor | Sequence[Tensor]) -> tuple[Tensor, ...]:
        """One map -> `num_outs` maps, finest first."""
        given = [maps] if isinstance(maps, Tensor) else list(maps)
        if len(given) != 1:
            raise ValueError(f"SimpleFeaturePyramid: takes one map, got {len(given)}: set out_indices to one stage")
        outs = [level(given[0]) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(outs[-1][:, :, ::2, ::2])
        return tuple(outs)
