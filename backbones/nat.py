"""NAT and DiNAT: every token attends to its neighbors (Hassani et al., CVPR 2023, arXiv:2204.07143; arXiv:2209.15001).

DiNAT is NAT with dilated neighborhoods in turn. DiNAT_s has Swin's layout with the same attention; the isotropic ones a
ViT's. Dilations hang on the task, not on the weights: see `DILATIONS`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from itertools import cycle, islice
from typing import Any

import torch
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage, doubling
from .layers import MetaFormerBlock, Mlp, PatchMerging, PatchStem, init_truncated
from .mixers import build_mixer
from .mixers.relative_attention import resample

# Of each stage, repeated to its depth. 640 and 384 are sides of the pictures.
DILATIONS = {
    "none": ((1,), (1,), (1,), (1,)),
    "classification": ((1, 8), (1, 4), (1, 2), (1,)),
    "classification_384": ((1, 13), (1, 6), (1, 3), (1,)),
    "detection": ((1, 28), (1, 7, 1, 14), (1, 3, 1, 5, 1, 7), (1, 3)),
    "segmentation": ((1, 16), (1, 4, 1, 8), (1, 2, 1, 3, 1, 4), (1, 2)),
    "segmentation_640": ((1, 20), (1, 5, 1, 10), (1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5), (1, 2)),
}
# DiNAT_s has two blocks in its second stage, of which the second looks as far as the other's last.
DILATIONS_S = DILATIONS | {
    "detection": ((1, 28), (1, 14), *DILATIONS["detection"][2:]),
    "segmentation": ((1, 16), (1, 8), *DILATIONS["segmentation"][2:]),
    "segmentation_640": ((1, 20), (1, 10), *DILATIONS["segmentation_640"][2:]),
}


class OverlappingStem(nn.Module):
    """Two 3 x 3 convolutions of stride 2 with nothing between, layer norm: (B, C_in, H, W) -> (B, H/4, W/4, dim)."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, dim // 2, 3, 2, 1)
        self.conv2 = nn.Conv2d(dim // 2, dim, 3, 2, 1)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv2(self.conv1(x.contiguous(memory_format=torch.channels_last)))
        return self.norm(x.permute(0, 2, 3, 1))


class OverlappingDownsample(nn.Module):
    """A 3 x 3 convolution of stride 2 without bias, layer norm: (B, H, W, C) -> (B, H/2, W/2, C')."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, 2, 1, bias=False)
        self.norm = nn.LayerNorm(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1))


DEEP = (3, 4, 18, 5)


_sizes = partial(doubling, head_dim=32)


@MODELS.register_module()
class NAT(Backbone):
    """Neighborhood attention with relative position bias. Arguments, output and errors: see `Backbone`.

    Keys of `changes`: `num_heads`, a number a stage; `kernel_size`, the window's side in tokens, odd; `dilations`, a
    name of `DILATIONS` or, a stage, the dilations of its blocks, repeated to its depth: they can be changed with the
    weights as they are; `small_maps`, what to do where a map is smaller than kernel_size * dilation ('pad' as the
    released models were trained, 'mask', or 'error'; see `NeighborhoodAttention2D`); `mlp_ratio`; `layer_scale_init`,
    None for none; `token_mixers`, a mixer a stage (a registered name, or a dict of `type` and arguments); `qkv_bias`;
    `out_norm`, a layer norm on every returned map, as the authors' detectors and segmentors have.
    """

    NAME = "nat"
    ARCHS: dict[str, dict[str, Any]] = {
        "mini": _sizes((3, 4, 6, 5), 64, mlp_ratio=3.0),
        "tiny": _sizes(DEEP, 64, mlp_ratio=3.0),
        "small": _sizes(DEEP, 96, mlp_ratio=2.0, layer_scale_init=1e-5),
        "base": _sizes(DEEP, 128, mlp_ratio=2.0, layer_scale_init=1e-5),
    }
    DEFAULTS = dict(
        kernel_size=7,
        dilations="none",
        small_maps="pad",
        layer_scale_init=None,
        qkv_bias=True,
        token_mixers=("Neighborhood",) * 4,
        out_norm=True,
    )
    OUT_NORM = nn.LayerNorm
    HEAD = dict(type="LinearHead", norm="LayerNorm", norm_first=True)
    DILATIONS = DILATIONS

    def __init__(self, arch: str | Mapping[str, Any] = "mini", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        init_truncated(self, nn.Linear)  # convolutions keep PyTorch's

    def make_stem(self, in_channels: int) -> nn.Module:
        return OverlappingStem(in_channels, self.arch.dims[0])

    def make_downsample(self, stage: int) -> nn.Module | None:
        """What stands before the blocks of a stage."""
        return OverlappingDownsample(self.arch.dims[stage - 1], self.arch.dims[stage]) if stage else None

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        arch, dim = self.arch, self.arch.dims[stage]
        blocks = [
            MetaFormerBlock(
                dim,
                self.make_mixer(stage, dilation),
                Mlp(dim, int(dim * arch.mlp_ratio)),
                (nn.LayerNorm(dim), nn.LayerNorm(dim)),
                arch.layer_scale_init,
                drop_path=rate,
            )
            for dilation, rate in zip(self.dilations(stage), drop_path, strict=True)
        ]
        return Stage(self.make_downsample(stage), blocks)

    def dilations(self, stage: int) -> tuple[int, ...]:
        """Of each block of a stage.

        Raises:
            ValueError: no preset of that name, or not a list a stage.
        """
        given, stages = self.arch.dilations, len(self.strides)
        if isinstance(given, str):
            if given not in self.DILATIONS:
                raise ValueError(
                    f"{self._who}: no dilations {given!r}; there are {', '.join(self.DILATIONS)}, "
                    "or give a list a stage"
                )
            given = self.DILATIONS[given]
        elif len(given) != stages or not all(isinstance(of_stage, Sequence) and of_stage for of_stage in given):
            raise ValueError(f"{self._who}: dilations {given!r} must be {stages} lists of numbers, one a stage")
        return tuple(islice(cycle(given[stage]), self.arch.depths[stage]))

    def make_mixer(self, stage: int, dilation: int) -> nn.Module:
        """The token mixer of a block."""
        arch = self.arch
        return build_mixer(
            arch.token_mixers[stage],
            arch.dims[stage],
            num_heads=arch.num_heads[stage],
            kernel_size=arch.kernel_size,
            dilation=dilation,
            qkv_bias=arch.qkv_bias,
            small_maps=arch.small_maps,
        )

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Bias tables of another kernel size are resampled bicubically, as the authors do from 7 to 11."""
        own = self.state_dict()
        return {
            key: resample(value, own[key].shape[1:]) if key.endswith(".rpb") and key in own else value
            for key, value in weights.items()
        }


@MODELS.register_module()
class DiNAT(NAT):
    """NAT whose neighborhoods are dilated in every second block. Keys of `changes`: see `NAT`.

    The default dilations are the classifiers' at the arch's size of picture; detectors take `dilations='detection'`,
    segmentors 'segmentation' (crops of 512) or 'segmentation_640'.
    """

    NAME = "dinat"
    ARCHS = {
        "mini": NAT.ARCHS["mini"],
        "tiny": NAT.ARCHS["tiny"],
        "small": NAT.ARCHS["small"] | dict(layer_scale_init=None),
        "base": NAT.ARCHS["base"],
        "large": _sizes(DEEP, 192, mlp_ratio=2.0),
    }
    ARCHS |= {
        "large_384": ARCHS["large"] | dict(dilations="classification_384"),
        "large_384_k11": ARCHS["large"] | dict(kernel_size=11),
    }
    DEFAULTS = NAT.DEFAULTS | dict(dilations="classification")


@MODELS.register_module()
class DiNATs(NAT):
    """DiNAT_s: Swin's layout, in which neighborhood attention stands for its windows and dilated for its shifted ones.

    Keys of `changes`: see `NAT`.
    """

    NAME = "dinat_s"
    ARCHS = {
        "tiny": _sizes((2, 2, 6, 2), 96),
        "small": _sizes((2, 2, 18, 2), 96),
        "base": _sizes((2, 2, 18, 2), 128),
        "large": _sizes((2, 2, 18, 2), 192),
    }
    ARCHS |= {"large_384": ARCHS["large"] | dict(dilations="classification_384")}
    DEFAULTS = NAT.DEFAULTS | dict(mlp_ratio=4.0, dilations="classification")
    DILATIONS = DILATIONS_S

    def __init__(self, arch: str | Mapping[str, Any] = "tiny", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)

    def make_stem(self, in_channels: int) -> nn.Module:
        return PatchStem(in_channels, self.arch.dims[0], 4)

    def make_downsample(self, stage: int) -> nn.Module | None:
        return PatchMerging(self.arch.dims[stage - 1], self.arch.dims[stage]) if stage else None


class Isotropic(NAT):
    """One stage of patches of 16 x 16, as a ViT's. Keys of `changes`: see `NAT`."""

    ARCHS = {
        "small": dict(depths=(12,), dims=(384,), num_heads=(12,), mlp_ratio=4.0),
        "base": dict(depths=(12,), dims=(768,), num_heads=(24,), mlp_ratio=4.0),
    }
    STRIDES = (16,)
    DEFAULTS = NAT.DEFAULTS | dict(token_mixers=("Neighborhood",))
    DILATIONS = {"none": ((1,),), "classification": ((1, 2),)}

    def __init__(self, arch: str | Mapping[str, Any] = "small", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)

    def make_stem(self, in_channels: int) -> nn.Module:
        return PatchStem(in_channels, self.arch.dims[0], 16)


@MODELS.register_module()
class IsotropicNAT(Isotropic):
    __doc__ = Isotropic.__doc__
    NAME = "nat_isotropic"


@MODELS.register_module()
class IsotropicDiNAT(Isotropic):
    __doc__ = Isotropic.__doc__
    NAME = "dinat_isotropic"
    DEFAULTS = Isotropic.DEFAULTS | dict(dilations="classification")


@MODELS.register_module()
class ViTRPB(Isotropic):
    """The yardstick: global attention with a relative position bias, of pictures of 224 (other sizes take the bias
    tables resampled). Keys of `changes`: see `NAT`.
    """

    NAME = "vitrpb"
    DEFAULTS = Isotropic.DEFAULTS | dict(token_mixers=("RelativeAttention",))
