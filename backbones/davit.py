"""DaViT: Dual Attention Vision Transformers (Ding et al., ECCV 2022, arXiv:2204.03645).

The towers of Florence-2 (Xiao et al., CVPR 2024, arXiv:2311.06242) are DaViTs as well.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage, doubling
from .layers import ConvDownsample, ConvPosEnc, ConvStem, Mlp, init_truncated, linear, pad_to_multiple, window_partition
from .mixers import build_mixer


class NormedDownsample(ConvDownsample):
    """Layer norm, then a convolution of stride 2: (B, H, W, C_in) -> (B, ceil(H / 2), ceil(W / 2), C_out).

    A kernel of 2 finds zeros behind odd sides, put there after the norm; a kernel of 3 has its own padding.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        even = kernel_size % 2 == 0
        padding, norm = 0 if even else kernel_size // 2, nn.LayerNorm(in_channels)
        super().__init__(in_channels, out_channels, kernel_size, 2, padding, pad_input=even, norm=norm)
        if even:  # the kernel lies in memory as the linear layer reads it, so that no copy is made and kept
            self.conv.to(memory_format=torch.channels_last)

    def _reduce(self, x: Tensor) -> Tensor:
        if self.conv.kernel_size != (2, 2):
            return super()._reduce(x)
        # Windows that do not overlap: one linear layer of four tokens, on CPUs up to twice as fast as the convolution.
        x = pad_to_multiple(x, (2, 2))
        height, width = x.shape[1] // 2, x.shape[2] // 2
        x = window_partition(x, (2, 2)).reshape(x.shape[0], height, width, 4 * x.shape[3])
        return linear(x, self.conv.weight.permute(0, 2, 3, 1).flatten(1), self.conv.bias)


class DaViTBlock(nn.Module):
    """Position, mixer, position, MLP, each added to its input; (B, H, W, C) throughout."""

    def __init__(self, dim: int, token_mixer: nn.Module, mlp_ratio: float, drop_path: float) -> None:
        super().__init__()
        self.cpe1, self.norm1, self.token_mixer = ConvPosEnc(dim), nn.LayerNorm(dim), token_mixer
        self.cpe2, self.norm2, self.mlp = ConvPosEnc(dim), nn.LayerNorm(dim), Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cpe1(x)
        x = x + self.drop_path(self.token_mixer(self.norm1(x)))
        x = self.cpe2(x)
        return x + self.drop_path(self.mlp(self.norm2(x)))


_sizes = partial(doubling, head_dim=32)


FLORENCE2 = dict(window_size=12, down_kernel_size=3, channel_form="florence2")
PAIR = ("WindowAttention", "ChannelAttention")


@MODELS.register_module()
class DaViT(Backbone):
    """Window attention and channel attention in turn. Arguments, output and errors: see `Backbone`.

    Keys of `changes`: `depths` counts pairs of blocks; `num_heads`, a number a stage; `token_mixers`, an entry a stage:
    the mixers that take turns in it, or one in all places (each a registered name, or a dict of `type` and arguments);
    `window_size`; `channel_form`, see `ChannelAttention`; `mlp_ratio`; `down_kernel_size`, 2 or 3; `shared_drop_path`,
    one rate for both blocks of a pair, as timm has it, where the release counts on; `out_norm`, a fresh layer norm on
    every returned map, as the authors' detectors and segmentors have (timm's feature maps are without).

    A mixer whose constructor takes `num_heads`, `window_size` or `channel_form` is given the arch's, unless its dict
    says otherwise.
    """

    NAME = "davit"
    ARCHS = {
        "tiny": _sizes((1, 1, 3, 1), 96),
        "small": _sizes((1, 1, 9, 1), 96),
        "base": _sizes((1, 1, 9, 1), 128),
        "large": _sizes((1, 1, 9, 1), 192),
        "huge": _sizes((1, 1, 9, 1), 256),
        "giant": _sizes((1, 1, 12, 3), 384),
        "base_fl": _sizes((1, 1, 9, 1), 128) | FLORENCE2,
        "huge_fl": _sizes((1, 1, 9, 1), 256) | FLORENCE2,
    }
    DEFAULTS = dict(
        token_mixers=(PAIR,) * 4,
        window_size=7,
        channel_form="davit",
        mlp_ratio=4.0,
        down_kernel_size=2,
        shared_drop_path=False,
        out_norm=True,
    )
    OUT_NORM = nn.LayerNorm
    HEAD = dict(type="LinearHead", norm="LayerNorm")  # mean, norm, linear

    def __init__(self, arch: str | dict[str, Any] = "tiny", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        init_truncated(self, nn.Linear)  # convolutions keep PyTorch's, as in the release

    def mixers(self, stage: int) -> tuple[str | Mapping[str, Any], ...]:
        """The mixers that take turns in a stage."""
        given = self.arch.token_mixers[stage]
        return (given,) * len(PAIR) if isinstance(given, str | Mapping) else tuple(given)

    def num_blocks(self, stage: int) -> int:
        turns = 1 if self.arch.shared_drop_path else len(self.mixers(stage))
        return self.arch.depths[stage] * turns

    def make_stem(self, in_channels: int) -> nn.Module:
        dim = self.arch.dims[0]
        return ConvStem(in_channels, dim, 7, stride=4, padding=3, norm=nn.LayerNorm(dim))

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        arch, dim, mixers = self.arch, self.arch.dims[stage], self.mixers(stage)
        before = NormedDownsample(arch.dims[stage - 1], dim, arch.down_kernel_size) if stage else None
        sizes = dict(num_heads=arch.num_heads[stage], window_size=arch.window_size, channel_form=arch.channel_form)
        blocks = []
        for index in range(arch.depths[stage] * len(mixers)):
            rate = drop_path[index // len(mixers) if arch.shared_drop_path else index]
            mixer = build_mixer(mixers[index % len(mixers)], dim, **sizes)
            blocks.append(DaViTBlock(dim, mixer, arch.mlp_ratio, rate))
        return Stage(before, blocks)

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(shared_drop_path=True), {}  # of effect in training alone
