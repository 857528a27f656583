"""MetaFormer: one body, any token mixer.

PoolFormer is MetaFormer Is Actually What You Need for Vision (Yu et al., CVPR 2022, arXiv:2111.11418).
"""

from collections.abc import Sequence
from typing import Any

from timm.layers import DropPath, Mlp, trunc_normal_
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage
from .layers import ConvDownsample, ConvStem, GroupNorm1, Scale
from .mixers import build_mixer


class MetaFormerBlock(nn.Module):
    """Norm, mixer, scale, residual; norm, MLP, scale, residual. (B, H, W, C) throughout."""

    def __init__(
        self, dim: int, token_mixer: nn.Module, mlp_ratio: float, layer_scale_init: float, drop_path: float
    ) -> None:
        super().__init__()
        self.norm1, self.token_mixer = GroupNorm1(dim), token_mixer
        self.norm2, self.mlp = GroupNorm1(dim), Mlp(dim, int(dim * mlp_ratio))
        self.layer_scale1, self.layer_scale2 = Scale(dim, layer_scale_init), Scale(dim, layer_scale_init)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.layer_scale1(self.token_mixer(self.norm1(x))))
        return x + self.drop_path(self.layer_scale2(self.mlp(self.norm2(x))))


@MODELS.register_module()
class PoolFormer(Backbone):
    """Average pooling as the token mixer. Arguments, output and errors: see `Backbone`.

    Keys of `changes`: `token_mixers`, a mixer a stage (a registered name, or a dict of `type` and arguments);
    `mlp_ratio`; `layer_scale_init`; `out_norm`, a fresh group norm on every returned map, as the authors' detectors and
    segmentors have (timm's feature maps are without); `pad_input`, see below.

    Departs from the release where H or W is no multiple of 4: the picture is padded at the bottom and the right, so
    that maps are rounded up as every backbone's here; `pad_input=False` has the release's arithmetic. The norm is over
    all pixels, so that padding a picture in a batch changes its features; that is so in the paper's network too.
    """

    NAME = "poolformer"
    ARCHS = {
        "s12": dict(depths=(2, 2, 6, 2), dims=(64, 128, 320, 512), layer_scale_init=1e-5),
        "s24": dict(depths=(4, 4, 12, 4), dims=(64, 128, 320, 512), layer_scale_init=1e-5),
        "s36": dict(depths=(6, 6, 18, 6), dims=(64, 128, 320, 512), layer_scale_init=1e-6),
        "m36": dict(depths=(6, 6, 18, 6), dims=(96, 192, 384, 768), layer_scale_init=1e-6),
        "m48": dict(depths=(8, 8, 24, 8), dims=(96, 192, 384, 768), layer_scale_init=1e-6),
    }
    DEFAULTS = dict(
        token_mixers=("Pooling",) * 4,
        mlp_ratio=4.0,
        out_norm=True,
        pad_input=True,
    )
    OUT_NORM = GroupNorm1
    HEAD = dict(type="LinearHead", norm="GroupNorm1", norm_first=True)  # the norm over the whole map, then the mean

    def __init__(self, arch: str | dict[str, Any] = "s12", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        for module in self.modules():
            if isinstance(module, nn.Linear):  # convolutions keep PyTorch's initialisation, as in the release
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def make_stem(self, in_channels: int) -> nn.Module:
        return ConvStem(in_channels, self.arch.dims[0], 7, stride=4, padding=2, pad_input=self.arch.pad_input)

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        arch, dim = self.arch, self.arch.dims[stage]
        blocks = [
            MetaFormerBlock(
                dim, build_mixer(arch.token_mixers[stage], dim), arch.mlp_ratio, arch.layer_scale_init, rate
            )
            for rate in drop_path
        ]
        # 3 x 3 with padding 1 rounds up by itself.
        before = ConvDownsample(arch.dims[stage - 1], dim, 3, stride=2, padding=1, pad_input=False) if stage else None
        return Stage(before, blocks)

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(pad_input=False), dict(norm_first=False, norm_eps=1e-6)  # timm takes the mean first
