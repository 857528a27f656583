"""MobileNetV2 with attention in its blocks.

MobileNetV2 is Inverted Residuals and Linear Bottlenecks (Sandler et al., arXiv:1801.04381), as torchvision has it.
ECA-Net (arXiv:1910.03151) scales the output of a block; ELA (arXiv:2403.01123) the wide map behind the depthwise
convolution, as coordinate attention does, which it follows; the paper's own place could not be verified.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage
from .layers.channel_attention import attn_type, build_attn
from .layers.conv_bn import ConvBN, fused
from .layers.ela import ELA_SIZES
from .layers.initial import init_convolutions

PLAIN = dict(
    depths=(2, 3, 7, 4),
    dims=(24, 32, 96, 320),
    widths={2: (64, 64, 64, 64, 96, 96, 96), 3: (160, 160, 160, 320)},
)
PLACES = ("output", "hidden")


class InvertedResidual(nn.Module):
    """1 x 1 to the hidden width, 3 x 3 depthwise, 1 x 1 back, each with a norm, the first two with ReLU6.

    (B, in_channels, H, W) -> (B, out_channels, H / stride, W / stride), rounded up. The input is added where shapes
    agree; the 1 x 1 convolution before is left out where the hidden width is the input's.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        expand_ratio: int,
        stride: int,
        attn: nn.Module | None,
        attn_place: str,
        drop_path: float,
    ) -> None:
        super().__init__()
        hidden = in_channels * expand_ratio
        expand = [] if expand_ratio == 1 else [ConvBN(in_channels, hidden)]
        self.convs = nn.ModuleList(
            [*expand, ConvBN(hidden, hidden, 3, stride, 1, groups=hidden), ConvBN(hidden, out_channels)]
        )
        self.attn = nn.Identity() if attn is None else attn
        self.hidden_attn = attn_place == "hidden"
        self.is_residual = stride == 1 and in_channels == out_channels
        self.drop_path = DropPath(drop_path)  # of no effect where there is nothing but the branch

    def forward(self, x: Tensor) -> Tensor:
        branch = x
        for conv in self.convs[:-1]:
            branch = F.relu6(conv(branch), inplace=True)
        branch = self.convs[-1](self.attn(branch)) if self.hidden_attn else self.attn(self.convs[-1](branch))
        return self.drop_path(branch).add_(x) if self.is_residual else branch


class MobileNetV2Stem(nn.Module):
    """A 3 x 3 convolution of stride 2, norm, ReLU6, and a block that does not expand: stride 2 in all."""

    def __init__(self, in_channels: int, width: int, block: nn.Module) -> None:
        super().__init__()
        self.conv, self.block = ConvBN(in_channels, width, 3, 2, 1), block

    def forward(self, x: Tensor) -> Tensor:
        # Three channels are cheap to turn round here; every later layer then finds its memory in order.
        x = x.contiguous(memory_format=torch.channels_last)
        return self.block(F.relu6(self.conv(x), inplace=True))


@MODELS.register_module()
class MobileNetV2(Backbone):
    """MobileNetV2, plain or with channel attention. Arguments, output and errors: see `Backbone`.

    The stem is the first convolution and the block of 16 channels. The last 1 x 1 convolution, to 1,280 channels, is
    the classification head's (`ConvHead`): detectors and segmentors do without it.

    Keys of `changes`: `attn`, as `ResNet` has it; `attn_place`, 'output' or 'hidden', the map that it scales;
    `eca_kernels`, a kernel size for each width of a block's output, None for the paper's rule; `widths`, for stages
    whose blocks are not all of the stage's width: each block's; `stem_dims`, of the stem's convolution and of its
    block; `expand_ratio`.
    """

    NAME = "mobilenetv2"
    CHANNELS_LAST = False
    ARCHS = {
        "mobilenetv2_100": PLAIN,
        # The release has kernels of 1 below 96 channels, which the paper's rule never gives.
        "eca_mobilenetv2": dict(PLAIN, attn="eca", eca_kernels={16: 1, 24: 1, 32: 1, 64: 1, 96: 3, 160: 3, 320: 3}),
        **{f"{size}_mobilenetv2": dict(PLAIN, attn=size, attn_place="hidden") for size in ELA_SIZES},
    }
    DEFAULTS = dict(attn=None, attn_place="output", eca_kernels=None, widths={}, stem_dims=(32, 16), expand_ratio=6)
    HEAD = dict(type="ConvHead", hidden_channels=1280)

    def __init__(self, arch: str | Mapping[str, Any] = "mobilenetv2_100", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        init_convolutions(self)
        self.to(memory_format=torch.channels_last)  # or every call would turn the weights round

    @classmethod
    def name_of(cls, arch: str) -> str:
        return arch

    def make_stem(self, in_channels: int) -> nn.Module:
        self._check_arch()
        width, out = self.arch.stem_dims
        return MobileNetV2Stem(in_channels, width, self._block(width, out, 1, 1, 0.0))

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        before = self.stage_widths(stage - 1)[-1] if stage else self.arch.stem_dims[1]
        blocks = []
        for index, (width, rate) in enumerate(zip(self.stage_widths(stage), drop_path, strict=True)):
            blocks.append(self._block(before, width, self.arch.expand_ratio, 1 if index else 2, rate))
            before = width
        return Stage(None, blocks)

    def stage_widths(self, stage: int) -> tuple[int, ...]:
        """Channels that each block of a stage gives."""
        arch = self.arch
        return tuple(arch.widths.get(stage, (arch.dims[stage],) * arch.depths[stage]))

    def fuse(self) -> "MobileNetV2":
        """A copy for inference, in which every batch norm is folded into its convolution.

        Raises:
            ValueError: in training mode.
        """
        return fused(self)

    def _block(self, before: int, width: int, expand_ratio: int, stride: int, drop_path: float) -> InvertedResidual:
        arch = self.arch
        channels = before * expand_ratio if arch.attn_place == "hidden" else width
        sizes = {} if arch.eca_kernels is None else dict(kernel_size=arch.eca_kernels[width])
        try:
            attn = build_attn(arch.attn, channels, **sizes)
        except ValueError as error:
            raise ValueError(f"{self._who}: {error}") from error
        return InvertedResidual(before, width, expand_ratio, stride, attn, arch.attn_place, drop_path)

    def _check_arch(self) -> None:
        arch = self.arch
        if arch.attn_place not in PLACES:
            raise ValueError(f"{self._who}: no attn_place {arch.attn_place!r}; there are {', '.join(PLACES)}")
        for stage, (depth, dim) in enumerate(zip(arch.depths, arch.dims, strict=True)):
            widths = self.stage_widths(stage)
            if len(widths) != depth or widths[-1] != dim:
                raise ValueError(
                    f"{self._who}: widths {widths} of stage {stage} must be {depth}, one a block, and end with the "
                    f"stage's {dim}; without an entry in widths all are {dim}"
                )
        if arch.eca_kernels is not None:
            if attn_type(arch.attn) != "eca":
                raise ValueError(f"{self._who}: eca_kernels are of attn='eca', not of {arch.attn!r}; set them to None")
            widths = {arch.stem_dims[1], *(width for stage in range(4) for width in self.stage_widths(stage))}
            if absent := sorted(widths - set(arch.eca_kernels)):
                raise ValueError(f"{self._who}: eca_kernels {arch.eca_kernels} lack the widths {absent}")
