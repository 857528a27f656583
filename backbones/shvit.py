"""SHViT: Single-Head Vision Transformer with Memory Efficient Macro Design (Yun and Ro, CVPR 2024, arXiv:2401.16456).

A stem of stride 16 leaves few tokens, three stages of which two attend by a single head on a part of the channels.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath, make_divisible
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage
from .layers import ConvBN
from .layers.conv_bn import fused
from .layers.squeeze_excite import SqueezeExcite
from .mixers import build_mixer

SINGLE_HEAD = "SingleHeadAttention"


class Stem(nn.Module):
    """Four 3 x 3 convolutions of stride 2, each with a norm, ReLU between: (B, C_in, H, W) -> (B, dim, H/16, W/16)."""

    def __init__(self, in_channels: int, dim: int) -> None:
        super().__init__()
        widths = (in_channels, dim // 8, dim // 4, dim // 2, dim)
        self.convs = nn.ModuleList(ConvBN(a, b, 3, 2, 1) for a, b in zip(widths, widths[1:], strict=False))

    def forward(self, x: Tensor) -> Tensor:
        # Three channels are cheap to turn round here; every later layer then finds its memory in order.
        x = x.contiguous(memory_format=torch.channels_last)
        for conv in self.convs[:-1]:
            x = F.relu(conv(x), inplace=True)
        return self.convs[-1](x)


class DepthwiseResidual(nn.Module):
    """x + depthwise 3 x 3 convolution of x."""

    def __init__(self, dim: int, bn_weight_init: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.dim = dim
        self.conv = ConvBN(dim, dim, 3, padding=1, groups=dim, bn_weight_init=bn_weight_init)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.conv(x)).add_(x)  # in place: no layer before needs its output to derive

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """One convolution: the identity is a kernel of which the middle is 1."""
        conv = self.conv.fuse()
        conv.weight[:, :, 1, 1] += 1
        return conv


class ConvMlp(nn.Module):
    """1 x 1 convolution, ReLU, 1 x 1 convolution, each convolution with its norm: (B, dim, H, W) -> (B, dim, H, W)."""

    def __init__(self, dim: int, hidden: int, bn_weight_init: float) -> None:
        super().__init__()
        self.fc1, self.fc2 = ConvBN(dim, hidden), ConvBN(hidden, dim, bn_weight_init=bn_weight_init)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(x), inplace=True))


class SHViTBlock(nn.Module):
    """Depthwise convolution, mixer if any, MLP, each added to its input; (B, dim, H, W) throughout."""

    def __init__(
        self, dim: int, token_mixer: nn.Module | None, mlp_ratio: float, bn_weight_init: float, drop_path: float
    ) -> None:
        super().__init__()
        self.conv = DepthwiseResidual(dim, bn_weight_init, drop_path)
        self.token_mixer = token_mixer
        self.mlp = ConvMlp(dim, int(dim * mlp_ratio), bn_weight_init)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.token_mixer is not None:
            x = x + self.drop_path(self.token_mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2))
        return self.drop_path(self.mlp(x)).add_(x)


class PatchMerging(nn.Module):
    """1 x 1 to four times the channels, depthwise 3 x 3 of stride 2, squeeze-and-excite, 1 x 1 to the new channels."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        hidden = 4 * in_channels
        self.conv1 = ConvBN(in_channels, hidden)
        self.conv2 = ConvBN(hidden, hidden, 3, 2, 1, groups=hidden)
        self.se = SqueezeExcite(hidden, make_divisible(hidden / 4, 8, round_limit=0.0), F.relu)
        self.conv3 = ConvBN(hidden, out_channels)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv1(x), inplace=True)
        x = F.relu(self.conv2(x), inplace=True)
        return self.conv3(x * self.se(x.permute(0, 2, 3, 1))[:, :, None, None])


class Downsample(nn.Module):
    """A depthwise convolution and an MLP on either side of the merging: (B, C, H, W) -> (B, C', H / 2, W / 2)."""

    def __init__(self, in_channels: int, out_channels: int, mlp_ratio: float, bn_weight_init: float) -> None:
        super().__init__()
        # Here the depthwise norms begin with a scale of 1, unlike the blocks'.
        self.conv1 = DepthwiseResidual(in_channels, 1.0)
        self.mlp1 = ConvMlp(in_channels, int(in_channels * mlp_ratio), bn_weight_init)
        self.merging = PatchMerging(in_channels, out_channels)
        self.conv2 = DepthwiseResidual(out_channels, 1.0)
        self.mlp2 = ConvMlp(out_channels, int(out_channels * mlp_ratio), bn_weight_init)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv1(x)
        x = self.conv2(self.merging(self.mlp1(x).add_(x)))
        return self.mlp2(x).add_(x)


@MODELS.register_module()
class SHViT(Backbone):
    """Single-head attention on few tokens, strides 16, 32 and 64. Arguments, output and errors: see `Backbone`.

    Feature pyramids want finer levels: `bestiary.SHViTNeck` adds them.

    Keys of `changes`: `partial_dims`, the attended channels of each stage; `token_mixers`, a mixer a stage (a
    registered name, or a dict of `type` and arguments), or None for blocks without; `qk_dim`; `mlp_ratio`;
    `zero_init_residual`, whether each residual branch begins as nothing.

    The release trains without drop path. Its detectors keep the norms in evaluation mode: `norm_eval=True`.
    """

    NAME = "shvit"
    ARCHS = {
        "s1": dict(depths=(2, 4, 5), dims=(128, 224, 320), partial_dims=(32, 48, 68)),
        "s2": dict(depths=(2, 4, 5), dims=(128, 308, 448), partial_dims=(32, 66, 96)),
        "s3": dict(depths=(3, 5, 5), dims=(192, 352, 448), partial_dims=(48, 75, 96)),
        "s4": dict(depths=(4, 7, 6), dims=(224, 336, 448), partial_dims=(48, 72, 96)),
    }
    DEFAULTS = dict(
        token_mixers=(None, SINGLE_HEAD, SINGLE_HEAD),
        qk_dim=16,
        mlp_ratio=2.0,
        zero_init_residual=True,
    )
    STRIDES = (16, 32, 64)
    CHANNELS_LAST = False
    HEAD = dict(type="LinearHead", norm="BatchNorm")

    def __init__(self, arch: str | Mapping[str, Any] = "s1", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)

    def make_stem(self, in_channels: int) -> nn.Module:
        return Stem(in_channels, self.arch.dims[0])

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        arch, dim = self.arch, self.arch.dims[stage]
        scale = 0.0 if arch.zero_init_residual else 1.0
        before = Downsample(arch.dims[stage - 1], dim, arch.mlp_ratio, scale) if stage else None
        return Stage(
            before, [SHViTBlock(dim, self._make_mixer(stage), arch.mlp_ratio, scale, rate) for rate in drop_path]
        )

    def _make_mixer(self, stage: int) -> nn.Module | None:
        arch, dim, cfg = self.arch, self.arch.dims[stage], self.arch.token_mixers[stage]
        if cfg == SINGLE_HEAD:
            scale = 0.0 if arch.zero_init_residual else 1.0
            cfg = dict(type=cfg, partial_dim=arch.partial_dims[stage], qk_dim=arch.qk_dim, bn_weight_init=scale)
        return None if cfg is None else build_mixer(cfg, dim)

    def fuse(self) -> "SHViT":
        """A copy for inference with the same outputs: each norm folded into its convolution, each identity beside a
        depthwise convolution into its kernel. This backbone stays as it is.

        Raises:
            ValueError: in training mode.
        """
        return fused(self)
