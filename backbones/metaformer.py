"""MetaFormer: one body, any token mixer.

PoolFormer is MetaFormer Is Actually What You Need for Vision (Yu et al., CVPR 2022, arXiv:2111.11418); all others here
are MetaFormer Baselines for Vision (Yu et al., TPAMI 2024, arXiv:2210.13452).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import nn

from ..registry import MODELS
from .base import Backbone, Stage
from .layers import ConvDownsample, ConvStem, GroupNorm1, MetaFormerBlock, Mlp, StarMlp, init_truncated
from .mixers import build_mixer

NORMS = {"GroupNorm1": GroupNorm1, "LayerNorm": nn.LayerNorm}  # over a picture; over a token
MLPS = {"MLP": Mlp, "StarMlp": StarMlp}  # with GELU and biases; with StarReLU and none


def _sizes(*depths: int, dims: tuple[int, ...]) -> dict[str, Any]:
    return dict(depths=depths, dims=dims)


S, M = (64, 128, 320, 512), (96, 192, 384, 768)
# Of PoolFormer, PoolFormerV2, IdentityFormer and RandFormer.
SIMPLE = {
    "s12": _sizes(2, 2, 6, 2, dims=S),
    "s24": _sizes(4, 4, 12, 4, dims=S),
    "s36": _sizes(6, 6, 18, 6, dims=S),
    "m36": _sizes(6, 6, 18, 6, dims=M),
    "m48": _sizes(8, 8, 24, 8, dims=M),
}


@MODELS.register_module()
class MetaFormer(Backbone):
    """The body of MetaFormer Baselines with any token mixers. Arguments, output and errors: see `Backbone`.

    Keys of `changes`:

    - `token_mixers`: a mixer a stage, each a registered name (`SelfAttention` or `self_attention`) or a dict of `type`
      and arguments; by default CAFormer's;
    - `norm`: 'LayerNorm', over a token, or 'GroupNorm1', over all of a picture; `norm_eps`, `norm_bias`;
    - `downsample_norm`: whether a layer norm without bias follows the stem and precedes each downsampling;
    - `mlp`: 'StarMlp', with StarReLU and no biases, or 'MLP', with GELU and biases; `mlp_ratio`;
    - `layer_scale_init`: initial factor of every branch, None for no factor; `res_scale_init`: initial factor of the
      residual connections, one a stage, None for no factor;
    - `img_size`: pictures' side, or (H, W), for mixers that must know the number of tokens;
    - `out_norm`: a fresh norm on every returned map, for dense prediction (timm's feature maps are without);
    - `pad_input`: pad the picture at the bottom and the right to a multiple of 4, so that maps are rounded up as every
      backbone's here; False has the release's arithmetic, which drops rows.
    """

    NAME = "metaformer"
    ARCHS = {
        "s18": _sizes(3, 3, 9, 3, dims=S),
        "s36": _sizes(3, 12, 18, 3, dims=S),
        "m36": _sizes(3, 12, 18, 3, dims=(96, 192, 384, 576)),
        "b36": _sizes(3, 12, 18, 3, dims=(128, 256, 512, 768)),
    }
    DEFAULTS: dict[str, Any] = dict(
        token_mixers=("SepConv", "SepConv", "SelfAttention", "SelfAttention"),
        norm="LayerNorm",
        norm_eps=1e-6,
        norm_bias=False,
        downsample_norm=True,
        mlp="StarMlp",
        mlp_ratio=4.0,
        layer_scale_init=None,
        res_scale_init=(None, None, 1.0, 1.0),
        img_size=None,
        out_norm=True,
        pad_input=True,
    )
    OUT_NORM = partial(nn.LayerNorm, eps=1e-6)
    HEAD = dict(type="MlpHead")
    INITIALISED: tuple[type[nn.Module], ...] = (nn.Linear, nn.Conv2d)  # as the release does; others keep PyTorch's

    def __init__(self, arch: str | dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        init_truncated(self, *self.INITIALISED)

    def make_stem(self, in_channels: int) -> nn.Module:
        dim = self.arch.dims[0]
        return ConvStem(in_channels, dim, 7, 4, padding=2, pad_input=self.arch.pad_input, norm=self._between(dim))

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        blocks = [self._block(stage, rate) for rate in drop_path]
        if stage == 0:
            return Stage(None, blocks)
        before, dim = self.arch.dims[stage - 1 : stage + 1]
        # 3 x 3 with padding 1 rounds up by itself.
        return Stage(ConvDownsample(before, dim, 3, 2, padding=1, pad_input=False, norm=self._between(before)), blocks)

    def _block(self, stage: int, drop_path: float) -> nn.Module:
        arch, dim = self.arch, self.arch.dims[stage]
        norm = self._choice("norm", NORMS)
        return MetaFormerBlock(
            dim,
            build_mixer(arch.token_mixers[stage], dim, **self._tokens(stage)),
            self._choice("mlp", MLPS)(dim, int(dim * arch.mlp_ratio)),
            (norm(dim, eps=arch.norm_eps, bias=arch.norm_bias), norm(dim, eps=arch.norm_eps, bias=arch.norm_bias)),
            arch.layer_scale_init,
            arch.res_scale_init[stage],
            drop_path,
        )

    def _between(self, dim: int) -> nn.Module | None:
        return nn.LayerNorm(dim, eps=self.arch.norm_eps, bias=False) if self.arch.downsample_norm else None

    def _choice(self, key: str, choices: dict[str, type[nn.Module]]) -> type[nn.Module]:
        if (chosen := getattr(self.arch, key)) not in choices:
            raise ValueError(f"{self._who}: no {key} {chosen!r}; there are {', '.join(choices)}")
        return choices[chosen]

    def _tokens(self, stage: int) -> dict[str, int]:
        """How many tokens a map of this stage has, if that is known."""
        size = self.arch.img_size
        if size is None:
            return {}
        sides = (size, size) if isinstance(size, int) else size
        return dict(num_tokens=math.prod(math.ceil(side / self.strides[stage]) for side in sides))

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(pad_input=False), dict(norm_eps=1e-6)


@MODELS.register_module()
class ConvFormer(MetaFormer):
    """Separable convolutions as the token mixers. Keys of `changes`: see `MetaFormer`."""

    NAME = "convformer"
    DEFAULTS = {**MetaFormer.DEFAULTS, "token_mixers": ("SepConv",) * 4}


@MODELS.register_module()
class CAFormer(MetaFormer):
    """Separable convolutions in two stages, self-attention in two. Keys of `changes`: see `MetaFormer`."""

    NAME = "caformer"


class _Simple(MetaFormer):
    """What PoolFormerV2, IdentityFormer and RandFormer share: one norm for a picture, one linear layer as head."""

    ARCHS = SIMPLE
    DEFAULTS = {**MetaFormer.DEFAULTS, "norm": "GroupNorm1"}
    HEAD = dict(type="LinearHead", norm="LayerNorm", norm_eps=1e-6)

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(pad_input=False), {}


@MODELS.register_module()
class PoolFormerV2(_Simple):
    """Average pooling as the token mixer, in the body of the baselines. Keys of `changes`: see `MetaFormer`.

    The norm is over all pixels, so that padding a picture in a batch changes its features; as in the paper.
    """

    NAME = "poolformerv2"
    DEFAULTS = {**_Simple.DEFAULTS, "token_mixers": ("Pooling",) * 4}


@MODELS.register_module()
class IdentityFormer(_Simple):
    """No token mixing at all, beyond stem, downsampling and norms. Keys of `changes`: see `MetaFormer`."""

    NAME = "identityformer"
    DEFAULTS = {**_Simple.DEFAULTS, "token_mixers": ("Identity",) * 4}


@MODELS.register_module()
class RandFormer(_Simple):
    """Frozen random matrices as the token mixers of two stages. Keys of `changes`: see `MetaFormer`.

    A matrix is for one number of tokens: pictures must have the `img_size` that the backbone was built for, 224 by
    default and in the released weights. A network for classification, then, not for detection.
    """

    NAME = "randformer"
    DEFAULTS = {
        **_Simple.DEFAULTS,
        "token_mixers": ("Identity", "Identity", "RandomMixing", "RandomMixing"),
        "img_size": 224,
    }


@MODELS.register_module()
class PoolFormer(MetaFormer):
    """Average pooling as the token mixer: the first MetaFormer. Keys of `changes`: see `MetaFormer`.

    The output norms are those of the authors' detectors and segmentors. The norm is over all pixels, so that padding a
    picture in a batch changes its features; that is so in the paper's network too.
    """

    NAME = "poolformer"
    ARCHS = {
        name: {**sizes, "layer_scale_init": 1e-5 if name in ("s12", "s24") else 1e-6} for name, sizes in SIMPLE.items()
    }
    DEFAULTS = {
        **MetaFormer.DEFAULTS,
        "token_mixers": ("Pooling",) * 4,
        "norm": "GroupNorm1",
        "norm_eps": 1e-5,
        "norm_bias": True,
        "downsample_norm": False,
        "mlp": "MLP",
        "res_scale_init": (None,) * 4,
    }
    OUT_NORM = GroupNorm1
    HEAD = dict(type="LinearHead", norm="GroupNorm1", norm_first=True)  # the norm over the whole map, then the mean
    INITIALISED = (nn.Linear,)

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(pad_input=False), dict(norm_first=False, norm_eps=1e-6)  # timm takes the mean first
