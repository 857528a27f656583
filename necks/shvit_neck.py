"""The neck of SHViT's detection results (arXiv:2401.16456): a feature pyramid that grows downwards, too."""

from collections.abc import Sequence

import torch.nn.functional as F
from mmengine.model import BaseModule
from torch import Tensor, nn

from ..registry import MODELS

INIT_CFG = [  # as the authors' neck begins
    dict(type="Xavier", layer="Conv2d", distribution="uniform"),
    dict(type="Kaiming", layer="ConvTranspose2d"),
]


@MODELS.register_module()
class SHViTNeck(BaseModule):
    """A feature pyramid (arXiv:1612.03144) with finer levels than the backbone has, by transposed convolutions.

    A backbone that begins at stride 16 has no maps for small objects. Here each finer level is made out of the one
    before it by a 2 x 2 transposed convolution of stride 2, from the finest lateral map on, which has seen all coarser
    ones. With strides 16, 32 and 64: `num_finer=1, num_outs=5` gives 8, 16, 32, 64 and a pooled 128, as the authors'
    RetinaNet has; `num_finer=2, num_outs=5` gives 4, 8, 16, 32, 64, as their Mask R-CNN.

    Args:
        in_channels: channels of the backbone's maps, finest first.
        out_channels: channels of every output.
        num_finer: how many finer levels.
        num_outs: how many outputs; those beyond the finer and the backbone's levels are the coarsest one with every
            second row and column. None: no such levels.
        init_cfg: mmengine's.

    Input: as many maps (B, C_i, H_i, W_i), each half as large as the one before or thereabouts.
    Output: a tuple of `num_outs` maps (B, out_channels, H, W), finest first. A finer level has exactly twice the rows
    and columns of the next, so that a picture whose sides the stride does not divide has a few more there than
    ceil(H / stride).

    Raises:
        ValueError: `num_finer` is negative; `num_outs` is less than the levels; another number of maps comes in.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        out_channels: int,
        num_finer: int = 2,
        num_outs: int | None = None,
        init_cfg: dict | list | None = None,
    ) -> None:
        super().__init__(init_cfg or [dict(cfg) for cfg in INIT_CFG])
        levels = num_finer + len(in_channels)
        num_outs = levels if num_outs is None else num_outs
        if num_finer < 0:
            raise ValueError(f"SHViTNeck: num_finer {num_finer} must be 0 or more")
        if num_outs < levels:
            raise ValueError(
                f"SHViTNeck: num_outs {num_outs} is less than the {levels} levels: {num_finer} finer ones and the "
                f"backbone's {len(in_channels)}"
            )
        self.in_channels, self.out_channels = tuple(in_channels), out_channels
        self.num_finer, self.num_outs = num_finer, num_outs
        self.laterals = nn.ModuleList(nn.Conv2d(channels, out_channels, 1) for channels in in_channels)
        self.ups = nn.ModuleList(nn.ConvTranspose2d(out_channels, out_channels, 2, stride=2) for _ in range(num_finer))
        self.convs = nn.ModuleList(nn.Conv2d(out_channels, out_channels, 3, padding=1) for _ in range(levels))

    def forward(self, inputs: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Maps of the backbone -> maps of the pyramid, finest first."""
        channels = tuple(x.shape[1] for x in inputs)
        if channels != self.in_channels:
            raise ValueError(
                f"SHViTNeck: in_channels {list(self.in_channels)} do not fit the backbone's maps, which have "
                f"{list(channels)}: set model.neck.in_channels"
            )
        maps = [lateral(x) for lateral, x in zip(self.laterals, inputs, strict=True)]
        for fine in range(len(maps) - 2, -1, -1):
            maps[fine] = maps[fine] + F.interpolate(maps[fine + 1], size=maps[fine].shape[2:], mode="nearest")
        for up in self.ups:
            maps.insert(0, up(maps[0]))
        outs = [conv(x) for conv, x in zip(self.convs, maps, strict=True)]
        while len(outs) < self.num_outs:
            outs.append(outs[-1][:, :, ::2, ::2])
        return tuple(outs)
