"""FocalNet: Focal Modulation Networks (Yang et al., NeurIPS 2022, arXiv:2203.11926)."""

import re
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage
from .layers import ConvDownsample, ConvStem, MetaFormerBlock, Mlp
from .mixers import build_mixer

FOCAL_KERNEL = re.compile(r"\.focal_layers\.(\d+)\.weight$")
FOCAL_GATES = re.compile(r"\.token_mixer\.f\.(weight|bias)$")

# Depths, levels and windows are those of the release's YAML files; the builders in its code leave the levels out.
SMALL, DEEP = dict(depths=(2, 2, 6, 2)), dict(depths=(2, 2, 18, 2))
SRF, LRF = dict(focal_levels=2, focal_windows=3), dict(focal_levels=3, focal_windows=3)  # short, long range
FL3, FL4 = dict(focal_levels=3, focal_windows=5), dict(focal_levels=4, focal_windows=3)
POST = dict(post_norm=True, layer_scale_init=1e-4)  # keeps the training of large networks steady
ISO = dict(depths=(12,), strides=(16,), **LRF)  # one stage, as a plain ViT has


@MODELS.register_module()
class FocalNet(Backbone):
    """Focal modulation in place of attention. Arguments, output and errors: see `Backbone`.

    Keys of `changes`; those marked * are one value, or one a stage:
        focal_levels*, focal_windows*: depthwise convolutions of a block, and the first one's kernel (each next one is 2
            wider). Detectors of the paper have windows of 9, or (11, 9, 9, 7), from weights of window 3: `adapt` puts
            the kernels into the middle of larger ones.
        token_mixers*: a mixer (a registered name, or a dict of `type` and arguments). What a FocalModulation's dict
            leaves out follows from the other keys.
        normalize_modulator: divide the sum over the levels by their number.
        modulation_norm: layer norm inside the modulation.
        conv_embed: embeddings overlap: 7 x 7 in the stem, 3 x 3 between stages.
        post_norm: norms after mixer and MLP. The authors' detection code leaves it out, this one has it everywhere.
        layer_scale_init: of a factor a channel on each branch; None: no factor.
        stem_padding: of the 7 x 7 stem. 2 is what all the classification weights were trained with; the authors'
            detection code pads by 3, which shifts the grid by a pixel: take 3 for weights of their detectors.
        pad_input: pad pictures and maps at the bottom and the right to a multiple of the patch, so that sizes are
            rounded up, as the authors' detection and segmentation code does. Without it the last rows may be dropped,
            as in their classification code and in timm.
        mlp_ratio; strides; out_norm, a fresh layer norm on every returned map, as the authors' detectors have.

    The arch `large_fl4` divides by the levels' number, as the release's configuration has it; timm does not, and which
    of the two fits the released weights is not known here (`normalize_modulator=False` has timm's).
    """

    NAME = "focalnet"
    ARCHS = {
        "tiny_srf": dict(**SMALL, dims=(96, 192, 384, 768), **SRF),
        "tiny_lrf": dict(**SMALL, dims=(96, 192, 384, 768), **LRF),
        "small_srf": dict(**DEEP, dims=(96, 192, 384, 768), **SRF),
        "small_lrf": dict(**DEEP, dims=(96, 192, 384, 768), **LRF),
        "base_srf": dict(**DEEP, dims=(128, 256, 512, 1024), **SRF),
        "base_lrf": dict(**DEEP, dims=(128, 256, 512, 1024), **LRF),
        "large_fl3": dict(**DEEP, dims=(192, 384, 768, 1536), **FL3, conv_embed=True, **POST),
        "large_fl4": dict(**DEEP, dims=(192, 384, 768, 1536), **FL4, normalize_modulator=True, conv_embed=True, **POST),
        "xlarge_fl3": dict(**DEEP, dims=(256, 512, 1024, 2048), **FL3, conv_embed=True, **POST),
        "xlarge_fl4": dict(**DEEP, dims=(256, 512, 1024, 2048), **FL4, conv_embed=True, **POST),
        "huge_fl3": dict(**DEEP, dims=(352, 704, 1408, 2816), **LRF, modulation_norm=True, conv_embed=True, **POST),
        "huge_fl4": dict(**DEEP, dims=(352, 704, 1408, 2816), **FL4, modulation_norm=True, conv_embed=True, **POST),
        "tiny_iso": dict(**ISO, dims=(192,)),
        "small_iso": dict(**ISO, dims=(384,)),
        "base_iso": dict(**ISO, dims=(768,), **POST),
    }
    DEFAULTS = dict(
        focal_levels=2,
        focal_windows=3,
        token_mixers="FocalModulation",
        normalize_modulator=False,
        modulation_norm=False,
        conv_embed=False,
        post_norm=False,
        layer_scale_init=None,
        stem_padding=2,
        pad_input=True,
        mlp_ratio=4.0,
        strides=Backbone.STRIDES,
        out_norm=True,
    )
    OUT_NORM = nn.LayerNorm
    HEAD = dict(type="LinearHead", norm="LayerNorm", norm_first=True)

    def __init__(self, arch: str | dict[str, Any] = "tiny_srf", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        for name, module in self.named_modules():
            # Convolutions keep PyTorch's initialisation, as in the release, in which `h` is a 1 x 1 convolution.
            if isinstance(module, nn.Linear) and not name.endswith(".token_mixer.h") and not module.weight.is_meta:
                trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def make_stem(self, in_channels: int) -> nn.Module:
        dim, patch = self.arch.dims[0], self.strides[0]
        kernel, padding = (7, self.arch.stem_padding) if self.arch.conv_embed else (patch, 0)
        if self.arch.conv_embed and patch != 4:
            raise ValueError(f"{self._who}: conv_embed has a stem of stride 4, not {patch}: set conv_embed=False")
        return _normed(ConvStem(in_channels, dim, kernel, patch, padding, self.arch.pad_input), dim)

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        arch, dim = self.arch, self.arch.dims[stage]
        mixer = dict(
            focal_levels=self._of_stage("focal_levels", stage),
            focal_window=self._of_stage("focal_windows", stage),
            normalize_modulator=arch.normalize_modulator,
            modulation_norm=arch.modulation_norm,
        )
        blocks = [
            MetaFormerBlock(
                dim,
                build_mixer(self._of_stage("token_mixers", stage), dim, **mixer),
                Mlp(dim, int(dim * arch.mlp_ratio)),
                (nn.LayerNorm(dim), nn.LayerNorm(dim)),
                arch.layer_scale_init,
                drop_path=rate,
                post_norm=arch.post_norm,
            )
            for rate in drop_path
        ]
        return Stage(self._downsample(stage) if stage else None, blocks)

    def _downsample(self, stage: int) -> nn.Module:
        before, dim = self.arch.dims[stage - 1 : stage + 1]
        patch = self.strides[stage] // self.strides[stage - 1]
        if self.arch.conv_embed:  # 3 x 3 with padding 1 rounds up by itself
            return _normed(ConvDownsample(before, dim, 3, patch, 1, pad_input=False), dim)
        return _normed(ConvDownsample(before, dim, patch, patch, 0, self.arch.pad_input), dim)

    def _of_stage(self, key: str, stage: int) -> Any:
        """A value that is given once, or one a stage."""
        value, stages = getattr(self.arch, key), len(self.strides)
        if isinstance(value, str | Mapping) or not isinstance(value, Sequence):
            return value
        if len(value) != stages:
            raise ValueError(f"{self._who}: {key} {value!r} must be one value or have {stages} entries, one a stage")
        return value[stage]

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Kernels, and gates of added levels, from a network with other focal windows or fewer levels.

        As the authors' detectors do it: a kernel goes into the middle of a larger one, of zeros, or its middle into a
        smaller one. Gates of added levels, before the last one, which is the whole map's, are zero; their kernels,
        which the weights do not have, are this network's own. Fewer levels than the weights have cannot be had.
        """
        adapted = dict(weights)
        for key, value in self.state_dict().items():
            given = weights.get(key)
            if (kernel := FOCAL_KERNEL.search(key)) and given is None:
                gates = weights.get(f"{key[: kernel.start()]}.f.bias", ())
                if 0 < len(gates) < 2 * len(value) + int(kernel[1]) + 2:  # it has fewer levels than this kernel's
                    adapted[key] = value
            elif given is None or given.shape == value.shape:
                continue
            elif kernel and given.shape[:2] == value.shape[:2]:
                adapted[key] = _centred(given, value.shape[-1])
            elif FOCAL_GATES.search(key) and given.shape[1:] == value.shape[1:] and len(given) < len(value):
                none = given.new_zeros(len(value) - len(given), *given.shape[1:])
                adapted[key] = torch.cat((given[:-1], none, given[-1:]))
        return adapted

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(pad_input=False, normalize_modulator=False), {}


def _normed(embedding: nn.Module, dim: int) -> nn.Module:
    """An embedding and a norm of what it gives."""
    return nn.Sequential(OrderedDict(proj=embedding, norm=nn.LayerNorm(dim)))


def _centred(kernel: Tensor, side: int) -> Tensor:
    """(C, 1, k, k) -> (C, 1, side, side): amid zeros, or the middle of it."""
    more = (side - kernel.shape[-1]) // 2
    return F.pad(kernel, (more, more, more, more))
