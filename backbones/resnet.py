"""ResNet with attention at the end of every residual branch.

ResNet: Deep Residual Learning for Image Recognition (He et al., arXiv:1512.03385), with the stride in the 3 x 3
convolution as torchvision has it. ECA-Net (Wang et al., arXiv:1910.03151) and ELA (Xu and Wan, arXiv:2403.01123) put
their module behind the last norm of a branch. timm's ecaresnets are networks of their own: deep stems, shortcuts that
average before they project (ResNet-D, arXiv:1812.01187), and two of them pruned (arXiv:2002.08258).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.logging import print_log
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage
from .layers.channel_attention import AttnConfig, attn_type, build_attn
from .layers.conv_bn import fused
from .layers.ela import ELA_SIZES
from .layers.initial import init_convolutions
from .layers.max_pool import MaxPool
from .layers.residual import AddAttention, ResidualConvBN
from .resnet_widths import PRUNED_50D, PRUNED_101D

BASIC, WIDE = (64, 128, 256, 512), (256, 512, 1024, 2048)
PLAIN = {
    "18": dict(depths=(2, 2, 2, 2), dims=BASIC, block="basic"),
    "34": dict(depths=(3, 4, 6, 3), dims=BASIC, block="basic"),
    "50": dict(depths=(3, 4, 6, 3), dims=WIDE),
    "101": dict(depths=(3, 4, 23, 3), dims=WIDE),
    "152": dict(depths=(3, 8, 36, 3), dims=WIDE),
}
# Kernel sizes of the released weights, a stage; they do not follow the paper's rule.
ECA_KERNELS = {"18": (3, 5, 7, 7), "34": (3, 3, 5, 7), "50": (3, 5, 5, 7), "101": (3, 3, 5, 7), "152": (3, 3, 5, 7)}
# What timm's ecaresnets have in common; D: three 3 x 3 convolutions for a stem, T: the same, tiered.
TIMM = dict(dims=WIDE, attn="eca", avg_down=True, zero_init_last=True)
D, T = dict(TIMM, stem_dims=(32, 32, 64)), dict(TIMM, stem_dims=(24, 32, 64))


class ResidualBlock(nn.Module):
    """Convolutions with norms, ReLU between them; attention; plus the shortcut; ReLU. (B, C, H, W) throughout."""

    def __init__(
        self, convs: Sequence[ResidualConvBN], attn: nn.Module | None, shortcut: nn.Module, drop_path: float
    ) -> None:
        super().__init__()
        self.convs = nn.ModuleList(convs)
        self.join = AddAttention(attn, drop_path)
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        for conv in self.convs[:-1]:
            branch = torch.relu_(conv(branch))
        return torch.relu_(self.join(self.convs[-1](branch), self.shortcut(x)))


class ResNetStem(nn.Module):
    """Convolutions, the first of stride 2, ReLU after each, and a max pool: (B, C_in, H, W) -> (B, C, H / 4, W / 4)."""

    def __init__(self, in_channels: int, dims: Sequence[int]) -> None:
        super().__init__()
        kernel = 7 if len(dims) == 1 else 3
        befores = (in_channels, *dims)
        self.convs = nn.ModuleList(
            ResidualConvBN(before, dim, kernel, 1 if index else 2)
            for index, (before, dim) in enumerate(zip(befores, dims, strict=False))
        )
        self.pool = MaxPool()

    def forward(self, x: Tensor) -> Tensor:
        # Three channels are cheap to turn round here; every later layer then finds its memory in order.
        x = x.contiguous(memory_format=torch.channels_last)
        for conv in self.convs[:-1]:
            x = torch.relu_(conv(x))
        return torch.relu_(self.pool(self.convs[-1](x)))  # the two commute, and the pooled map is smaller


@MODELS.register_module()
class ResNet(Backbone):
    """ResNet, plain or with channel attention. Arguments, output and errors: see `Backbone`.

    Keys of `changes`: `attn`, at the end of every residual branch: None, 'eca', 'ela_t', 'ela_b', 'ela_s', 'ela_l',
    'se', 'cbam', 'coord', or a dict of `type` and arguments (`build_attn`); `eca_kernels`, kernel sizes of ECA a stage,
    or one for all, None for the paper's rule; `block`, 'basic' or 'bottleneck'; `groups` and `width_per_group` of
    ResNeXt (arXiv:1611.05431); `stem_dims`, one width for a 7 x 7 stem, three for three 3 x 3 convolutions; `avg_down`,
    average pooling before a shortcut's projection instead of a stride in it; `widths`, the two inner widths of every
    bottleneck, a stage; `zero_init_last`, whether the last norm of a branch starts at zero (arXiv:1706.02677).

    The default kernel sizes are those of the authors' weights; `like_timm` takes the paper's rule, on the widths of the
    blocks' outputs.
    """

    NAME = "resnet"
    CHANNELS_LAST = False
    ARCHS = {
        **{f"resnet{depth}": arch for depth, arch in PLAIN.items()},
        **{
            f"eca_resnet{depth}": dict(arch, attn="eca", eca_kernels=ECA_KERNELS[depth])
            for depth, arch in PLAIN.items()
        },
        **{
            f"{size}_resnet{depth}": dict(PLAIN[depth], attn=size)
            for size in ELA_SIZES
            for depth in ("18", "34", "50", "101")
        },
        "ecaresnet26t": dict(T, depths=(2, 2, 2, 2)),
        "ecaresnetlight": dict(TIMM, depths=(1, 1, 11, 3)),
        "ecaresnet50d": dict(D, depths=(3, 4, 6, 3)),
        "ecaresnet50d_pruned": dict(D, depths=(3, 4, 6, 3), **PRUNED_50D),
        "ecaresnet50t": dict(T, depths=(3, 4, 6, 3)),
        "ecaresnet101d": dict(D, depths=(3, 4, 23, 3)),
        "ecaresnet101d_pruned": dict(D, depths=(3, 4, 23, 3), **PRUNED_101D),
        "ecaresnet200d": dict(D, depths=(3, 24, 36, 3)),
        "ecaresnet269d": dict(D, depths=(3, 30, 48, 8)),
        "ecaresnext26t_32x4d": dict(T, depths=(2, 2, 2, 2), groups=32, width_per_group=4),
        "ecaresnext50t_32x4d": dict(T, depths=(3, 4, 6, 3), groups=32, width_per_group=4),
    }
    DEFAULTS = dict(
        block="bottleneck",
        attn=None,
        eca_kernels=None,
        groups=1,
        width_per_group=64,
        stem_dims=(64,),
        avg_down=False,
        widths=None,
        zero_init_last=False,
    )

    def __init__(self, arch: str | Mapping[str, Any] = "resnet50", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        init_convolutions(self)
        if self.arch.zero_init_last:
            for module in self.modules():
                if isinstance(module, ResidualBlock):
                    nn.init.zeros_(module.convs[-1].bn.weight)
        self.to(memory_format=torch.channels_last)  # or every call would turn the weights round

    @classmethod
    def name_of(cls, arch: str) -> str:
        return arch

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return (dict(eca_kernels=None) if arch.startswith("eca_resnet") else {}), {}

    def make_stem(self, in_channels: int) -> nn.Module:
        self._check_arch()
        return ResNetStem(in_channels, self.arch.stem_dims)

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        return Stage(None, [self._block(stage, index, rate) for index, rate in enumerate(drop_path)])

    def fuse(self) -> "ResNet":
        """A copy for inference, in which every batch norm is folded into its convolution.

        Raises:
            ValueError: in training mode.
        """
        return fused(self)

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """The weights as they are; where their ECA kernels have other sizes, the log says which `eca_kernels` fit."""
        if attn_type(self.arch.attn) == "eca":
            given, own = _kernels(weights), _kernels(self.state_dict())
            if any(given.get(stage, size) != size for stage, size in own.items()):
                sizes = tuple(given[stage] for stage in sorted(given))
                print_log(
                    f"{self._who}: the weights are of eca_kernels={sizes}, this network is of "
                    f"{tuple(own.values())}: name the former in the backbone's config",
                    "current",
                )
        return weights

    def _block(self, stage: int, index: int, drop_path: float) -> ResidualBlock:
        arch, dim = self.arch, self.arch.dims[stage]
        before = dim if index else arch.dims[stage - 1] if stage else arch.stem_dims[-1]
        stride = 2 if stage and not index else 1
        if arch.block == "basic":
            convs = [ResidualConvBN(before, dim, 3, stride), ResidualConvBN(dim, dim, 3)]
        else:
            width = dim // 4 * arch.width_per_group // 64 * arch.groups
            narrow, wide = arch.widths[stage][index] if arch.widths else (width, width)
            convs = [
                ResidualConvBN(before, narrow, 1),
                ResidualConvBN(narrow, wide, 3, stride, arch.groups),
                ResidualConvBN(wide, dim, 1),
            ]
        return ResidualBlock(convs, self._attn(stage), self._shortcut(before, dim, stride), drop_path)

    def _shortcut(self, before: int, dim: int, stride: int) -> nn.Module:
        if before == dim and stride == 1:
            return nn.Identity()
        if not self.arch.avg_down:
            return nn.Sequential(ResidualConvBN(before, dim, 1, stride))
        # Odd sizes: the last window is cut, and its mean is of what is there.
        pool = nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if stride == 2 else nn.Identity()
        return nn.Sequential(pool, ResidualConvBN(before, dim, 1))

    def _attn(self, stage: int) -> nn.Module | None:
        kernels = self.arch.eca_kernels
        sizes = {}
        if kernels is not None:
            sizes["kernel_size"] = kernels if isinstance(kernels, int) else kernels[stage]
        try:
            return build_attn(self.arch.attn, self.arch.dims[stage], **sizes)
        except ValueError as error:
            raise ValueError(f"{self._who}: {error}") from error

    def _check_arch(self) -> None:
        arch = self.arch
        if arch.block not in ("basic", "bottleneck"):
            raise ValueError(f"{self._who}: no block {arch.block!r}; there are basic, bottleneck")
        if arch.block == "basic" and (arch.groups != 1 or arch.width_per_group != 64 or arch.widths):
            raise ValueError(f"{self._who}: groups, width_per_group and widths are of block='bottleneck'")
        if len(arch.stem_dims) not in (1, 3):
            raise ValueError(f"{self._who}: stem_dims {arch.stem_dims!r} must be one width (7 x 7) or three (3 x 3)")
        if arch.widths and [len(widths) for widths in arch.widths] != list(arch.depths):
            raise ValueError(
                f"{self._who}: widths must have a pair for each block of a stage, {tuple(arch.depths)}, got "
                f"{tuple(len(widths) for widths in arch.widths)}"
            )
        check_eca_kernels(self._who, arch.attn, arch.eca_kernels, len(self.strides))


def check_eca_kernels(who: str, attn: AttnConfig, kernels: int | Sequence[int] | None, stages: int) -> None:
    """Raise ValueError for kernel sizes that are not one a stage, or are of another attention."""
    if kernels is None:
        return
    if attn_type(attn) != "eca":
        raise ValueError(f"{who}: eca_kernels {kernels!r} are of attn='eca', not of {attn!r}; set eca_kernels=None")
    if not isinstance(kernels, int) and len(kernels) != stages:
        raise ValueError(f"{who}: eca_kernels {kernels!r} must be one size, or {stages}, one a stage")


def _kernels(weights: Mapping[str, Tensor]) -> dict[int, int]:
    """The ECA kernel size of each stage that has one, from the weights of a backbone."""
    found = {}
    for key, value in weights.items():
        if key.endswith(".join.attn.conv.weight"):
            found.setdefault(int(key.split(".")[1]), value.shape[-1])
    return found
