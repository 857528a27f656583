"""BiFormer: Vision Transformer with Bi-Level Routing Attention (Zhu et al., CVPR 2023, arXiv:2303.08810).

A map is cut into a fixed number of regions, and each region attends to the few that fit it best: to 1, 4 and 16 of them
in the first three stages. STL is the same attention in Swin's layout, the paper's ablation.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage, doubling
from .layers import ConvPosEnc, MetaFormerBlock, Mlp, init_truncated, pad_to_multiple
from .layers.mbconv import channels_norm
from .mixers import DepthwiseMixing, build_mixer

FORMS = ("nhwc", "nchw")
# What the releases write as topk; numbers above are of bi-level routing. Both attend globally by 8 heads, whatever the
# channels, and without a bias of the projection.
CONVOLUTION, ATTENTION, LEPE_ATTENTION = 0, -1, -2
GLOBAL_HEADS = 8


class ConvStem(nn.Module):
    """Two 3 x 3 convolutions of stride 2 with batch norms, GELU between: (B, C_in, H, W) -> (B, H/4, W/4, dim)."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(in_channels, dim // 2, 3, 2, 1), nn.BatchNorm2d(dim // 2)
        self.conv2, self.norm2 = nn.Conv2d(dim // 2, dim, 3, 2, 1), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = F.gelu(self.norm1(self.conv1(x.contiguous(memory_format=torch.channels_last))))
        return self.norm2(self.conv2(x)).permute(0, 2, 3, 1)


class ConvDownsample(nn.Module):
    """A 3 x 3 convolution of stride 2, batch norm: (B, H, W, C) -> (B, H/2, W/2, C'), sizes rounded up."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, out_channels, 3, 2, 1), nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)


class PatchStem(nn.Module):
    """Patches of 4 x 4, batch norm: (B, C_in, H, W) -> (B, H/4, W/4, dim), sizes rounded up by zeros."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(in_channels, dim, 4, 4), nn.BatchNorm2d(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(x.permute(0, 2, 3, 1), (4, 4)).permute(0, 3, 1, 2)
        return self.norm(self.conv(x.contiguous(memory_format=torch.channels_last))).permute(0, 2, 3, 1)


class PatchMerging(nn.Module):
    """Batch norm, patches of 2 x 2: (B, H, W, C) -> (B, H/2, W/2, C'), sizes rounded up by zeros."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.norm, self.conv = nn.BatchNorm2d(in_channels), nn.Conv2d(in_channels, out_channels, 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = pad_to_multiple(channels_norm(self.norm, x), (2, 2))
        return self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class BiFormerBlock(MetaFormerBlock):
    """Position by a depthwise 3 x 3 convolution, then mixer and MLP, each added to its input; (B, H, W, C)."""

    def __init__(self, dim: int, *args: Any, **kwargs: Any) -> None:
        super().__init__(dim, *args, **kwargs)
        self.pos_embed = ConvPosEnc(dim)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(self.pos_embed(x))


STL = doubling((2, 2, 6, 2), 96, mlp_ratio=4.0, swin_layout=True)


@MODELS.register_module()
class BiFormer(Backbone):
    """Bi-level routing attention. Arguments, output and errors: see `Backbone`.

    The release trains with drop path 0.1 (T), 0.15 (S) and 0.4 (B) on ImageNet, and keeps batch norms in evaluation
    mode in detectors (`norm_eval=True`).

    Keys of `changes`:

    - `n_win`: regions a side, or rows and columns of them; it hangs on the task, not on the weights: 7 for pictures of
      224, 8 for crops of 512 in segmentation, 16 in detection;
    - `topk`: for each stage the regions that a region attends to, or 0: a depthwise convolution between two linear
      layers, -1: plain attention, -2: plain attention with a convolution of its input beside it;
    - `token_mixers`: for each stage a mixer (a registered name, or a dict of `type` and arguments) in place of what
      `topk` says, None for that; a 'bi_level_routing' here takes the stage's `topk` where that is at least 1;
    - `head_dim`: channels of a head in the routed stages;
    - `side_dwconv`: side of the convolution's kernel beside the attention;
    - `mask_padding`: keep the padding of maps that `n_win` does not divide out of routing and softmax (the release does
      not, and its weights expect it there);
    - `form`: 'nhwc', the release; 'nchw', its rewrite, which pads after the projection, has no topk below -1, and whose
      -1 is attention with a convolution of the values beside it;
    - `swin_layout`: whether stem and downsampling are Swin's patches, and blocks have no convolution for position;
    - `mlp_ratio`; `layer_scale_init`, None for none; `out_norm`, a layer norm on every returned map, as the authors'
      detectors and segmentors have.
    """

    NAME = "biformer"
    ARCHS: dict[str, dict[str, Any]] = {
        "tiny": doubling((2, 2, 8, 2), 64),
        "small": doubling((4, 4, 18, 4), 64),
        "base": doubling((4, 4, 18, 4), 96),
        "stl": STL,
        "stl_nchw": STL | dict(form="nchw", topk=(1, 4, 16, ATTENTION)),
    }
    DEFAULTS = dict(
        n_win=7,
        topk=(1, 4, 16, LEPE_ATTENTION),
        token_mixers=(None,) * 4,
        head_dim=32,
        side_dwconv=5,
        mlp_ratio=3.0,
        layer_scale_init=None,
        mask_padding=False,
        form="nhwc",
        swin_layout=False,
        out_norm=True,
    )
    OUT_NORM = partial(nn.LayerNorm, eps=1e-6)
    HEAD = dict(type="LinearHead", norm="BatchNorm2d", norm_first=True)

    def __init__(self, arch: str | Mapping[str, Any] = "tiny", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        # Convolutions keep PyTorch's initial values, and so do the linear layers that the release has as such.
        if self.arch.form == "nhwc":
            for stage in self.stages:
                for block in stage.blocks:
                    init_truncated(block.mlp, nn.Linear)
                    if not isinstance(block.token_mixer, DepthwiseMixing):
                        init_truncated(block.token_mixer, nn.Linear)

    def make_stem(self, in_channels: int) -> nn.Module:
        if self.arch.form not in FORMS:
            raise ValueError(f"{self._who}: no form {self.arch.form!r}; there are {', '.join(FORMS)}")
        return (PatchStem if self.arch.swin_layout else ConvStem)(in_channels, self.arch.dims[0])

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        arch, dim = self.arch, self.arch.dims[stage]
        block, downsample = (MetaFormerBlock, PatchMerging) if arch.swin_layout else (BiFormerBlock, ConvDownsample)
        blocks = [
            block(
                dim,
                self.make_mixer(stage),
                Mlp(dim, int(dim * arch.mlp_ratio)),
                (nn.LayerNorm(dim, eps=1e-6), nn.LayerNorm(dim, eps=1e-6)),
                arch.layer_scale_init,
                drop_path=rate,
            )
            for rate in drop_path
        ]
        return Stage(downsample(arch.dims[stage - 1], dim) if stage else None, blocks)

    def make_mixer(self, stage: int) -> nn.Module:
        """The token mixer of a block.

        Raises:
            ValueError: no such topk; 8 heads do not divide the channels of a stage that attends globally.
        """
        arch, dim, topk, nchw = self.arch, self.arch.dims[stage], self.arch.topk[stage], self.arch.form == "nchw"
        offered = dict(
            num_heads=max(dim // arch.head_dim, 1),
            n_win=arch.n_win,
            side_dwconv=arch.side_dwconv,
            mask_padding=arch.mask_padding,
            padding="qkv" if nchw else "input",
            **(dict(topk=topk) if topk > 0 else {}),
        )
        if arch.token_mixers[stage] is not None:
            return build_mixer(arch.token_mixers[stage], dim, **offered)
        if topk > 0:
            return build_mixer("BiLevelRouting", dim, **offered)
        if topk == CONVOLUTION and not nchw:
            return DepthwiseMixing(dim)
        if topk not in (ATTENTION, LEPE_ATTENTION) or (nchw and topk == LEPE_ATTENTION):
            others = "-1" if nchw else "0, -1 or -2"
            raise ValueError(
                f"{self._who}: topk {topk} of stage {stage} must be a number of regions, or {others} for a mixer "
                f"without routing in form {arch.form!r}"
            )
        if dim % GLOBAL_HEADS:
            raise ValueError(
                f"{self._who}: the {GLOBAL_HEADS} heads of topk {topk} do not divide the {dim} channels of stage "
                f"{stage}: change dims"
            )
        if topk == ATTENTION and not nchw:
            cfg = dict(type="SelfAttention", num_heads=GLOBAL_HEADS, head_dim=dim // GLOBAL_HEADS, proj_bias=True)
        else:
            cfg = dict(type="LepeAttention", num_heads=GLOBAL_HEADS, lepe_of="v" if nchw else "x")
        return build_mixer(cfg, dim, side_dwconv=arch.side_dwconv)
