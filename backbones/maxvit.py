"""MaxViT: Multi-Axis Vision Transformer (Tu et al., ECCV 2022, arXiv:2204.01697).

A block is an inverted bottleneck, attention within windows, and attention over a grid, each attention with its MLP.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ..registry import MODELS
from .base import Backbone, Stage, doubling
from .layers import Act, MetaFormerBlock, Mlp
from .layers.conv_bn import norm_as_scale
from .layers.mbconv import MBConv
from .mixers import build_mixer
from .mixers.block_grid_attention import RelativePositionTable, resize_table

FOLLOW = "follow"
INITS = ("normal", "vit_eff")
TF = dict(hidden_of="output", se_ratio=0.25, se_of="output", act="gelu_tanh", mlp_act="gelu_tanh", bias=True, same=True)
RW = dict(hidden_of="input", se_ratio=1 / 16, se_of="hidden", act="silu", mlp_act="gelu", bias=False, same=False)
STYLES = {"tf": dict(TF, bn_eps=1e-3, ln_eps=1e-5), "rw": dict(RW, bn_eps=1e-5, ln_eps=1e-6)}
# What timm does differently, and so what its own networks do.
LIKE_TIMM = dict(
    table_resize="geometric", count_padding=True, bn_momentum=0.1, full_drop_path=True, weight_init="vit_eff"
)


class MaxViTStem(nn.Module):
    """3 x 3 convolution of stride 2, norm, act, 3 x 3 convolution: (B, C, H, W) -> (B, ceil(H/2), ceil(W/2), D)."""

    def __init__(self, in_channels: int, dims: Sequence[int], style: dict[str, Any], bn_momentum: float) -> None:
        super().__init__()
        bias, self.same = style["bias"], style["same"]
        self.conv1 = nn.Conv2d(in_channels, dims[0], 3, stride=2, padding=1, bias=bias)
        self.norm1 = nn.BatchNorm2d(dims[0], style["bn_eps"], bn_momentum)
        self.act = Act(style["act"])
        self.conv2 = nn.Conv2d(dims[0], dims[1], 3, padding=1, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        padding = 1
        if self.same:  # TensorFlow's: an even side has one row of zeros at its end, an odd one a row at either end
            down, right = (1 - side % 2 for side in x.shape[2:])
            x, padding = F.pad(x, (1 - right, 1, 1 - down, 1)), 0
        x, weight, bias = x.contiguous(memory_format=torch.channels_last), self.conv1.weight, self.conv1.bias
        if self.norm1.training:
            x = self.norm1(F.conv2d(x, weight, bias, 2, padding))
        else:
            scale, shift = norm_as_scale(self.norm1)
            bias = shift if bias is None else bias * scale + shift
            x = F.conv2d(x, weight * scale[:, None, None, None], bias, 2, padding)
        return self.conv2(self.act(x)).permute(0, 2, 3, 1)


class MaxViTBlock(nn.Module):
    """Inverted bottleneck, then the attention layers; (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), D)."""

    def __init__(self, conv: MBConv, layers: Sequence[MetaFormerBlock]) -> None:
        super().__init__()
        self.conv, self.layers = conv, nn.ModuleList(layers)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        for layer in self.layers:
            x = layer(x)
        return x


def _archs() -> dict[str, dict[str, Any]]:
    archs = {}
    for size, depths, width, stem in (
        ("tiny", (2, 2, 5, 2), 64, 64),
        ("small", (2, 2, 5, 2), 96, 64),
        ("base", (2, 6, 14, 2), 96, 64),
        ("large", (2, 6, 14, 2), 128, 128),
        ("xlarge", (2, 6, 14, 2), 192, 192),
    ):
        for side in (224, 384, 512):
            archs[f"{size}_tf_{side}"] = doubling(depths, width, stem_dims=(stem, stem), table_window=side // 32)
    for name, depths, width, stem, side, more in (
        ("pico_rw_256", (2, 2, 5, 2), 32, (24, 32), 256, {}),
        ("nano_rw_256", (1, 2, 3, 1), 64, (32, 64), 256, {}),
        ("tiny_rw_224", (2, 2, 5, 2), 64, (32, 64), 224, {}),
        ("tiny_rw_256", (2, 2, 5, 2), 64, (32, 64), 256, {}),
        ("rmlp_pico_rw_256", (2, 2, 5, 2), 32, (24, 32), 256, dict(rel_pos="mlp")),
        ("rmlp_nano_rw_256", (1, 2, 3, 1), 64, (32, 64), 256, dict(rel_pos="mlp")),
        ("rmlp_tiny_rw_256", (2, 2, 5, 2), 64, (32, 64), 256, dict(rel_pos="mlp")),
        ("rmlp_small_rw_224", (2, 2, 5, 2), 96, (32, 64), 224, dict(rel_pos="mlp", layer_scale_init=1e-6)),
        ("rmlp_small_rw_256", (2, 2, 5, 2), 96, (32, 64), 256, dict(rel_pos="mlp", layer_scale_init=1e-6)),
        ("rmlp_base_rw_224", (2, 6, 14, 2), 96, (32, 64), 224, dict(rel_pos="mlp")),
        ("rmlp_base_rw_384", (2, 6, 14, 2), 96, (32, 64), 384, dict(rel_pos="mlp")),
    ):
        archs[name] = doubling(depths, width, stem_dims=stem, table_window=side // 32, style="rw", **LIKE_TIMM, **more)
    return archs


@MODELS.register_module()
class MaxViT(Backbone):
    """Windows and grids by turns. Arguments, output and errors: see `Backbone`.

    Archs `*_tf_*` are the paper's, whose weights timm took over from TensorFlow, `*_rw_*` and `rmlp_*` timm's own.

    Keys of `changes`:
        stem_dims: widths of the stem's two convolutions.
        window_size: tokens of a window, and of a grid: 'follow' takes a 32nd of the picture, rounded up, on each side,
            as the published networks do at every size of picture; a number, or a pair, stays as it is.
        table_window: the window that the tables of relative positions are of; they serve others resized.
        table_resize: 'bilinear', as the authors resize them, or 'geometric', as timm does.
        token_mixers: for each stage the mixers of a block, each of which gets an MLP: registered names, or dicts of
            `type` and arguments.
        head_dim: channels of an attention head.
        mlp_ratio, expand_ratio: hidden width of the MLPs; of the bottlenecks.
        style: 'tf', or 'rw' for timm's own networks, which differ in activations, norms, biases and padding.
        rel_pos, rel_pos_dim: see `BlockAttention`.
        layer_scale_init: None for no layer scale.
        count_padding: whether padding counts in the shortcut's mean of an odd map, as in timm.
        bn_momentum: of the batch norms, PyTorch's way.
        full_drop_path: whether the last block's rate is `drop_path_rate`; the authors' grows to (n - 1) / n of it.
        weight_init: 'normal', the authors'; 'vit_eff', timm's.

    Where a window does not divide a map, which the published networks refuse, the last windows are smaller, and so are
    the last groups of a grid: as if the map were padded and the padding left out of the softmax.
    """

    NAME = "maxvit"
    ARCHS = _archs()
    DEFAULTS = dict(
        window_size=FOLLOW,
        table_resize="bilinear",
        token_mixers=(("BlockAttention", "GridAttention"),) * 4,
        head_dim=32,
        mlp_ratio=4.0,
        expand_ratio=4.0,
        style="tf",
        rel_pos="table",
        rel_pos_dim=512,
        layer_scale_init=None,
        count_padding=False,
        bn_momentum=0.01,
        full_drop_path=False,
        weight_init="normal",
    )

    def __init__(self, arch: str | dict[str, Any] = "tiny_tf_224", *args: Any, **kwargs: Any) -> None:
        super().__init__(arch, *args, **kwargs)
        if self.arch.weight_init not in INITS:
            raise ValueError(f"{self._who}: no weight_init {self.arch.weight_init!r}; there are {', '.join(INITS)}")
        init = init_normal if self.arch.weight_init == "normal" else init_vit_eff
        for name, module in self.named_modules():
            if isinstance(module, nn.Linear | nn.Conv2d) and not module.weight.is_meta:
                init(name, module)

    @property
    def style(self) -> dict[str, Any]:
        """What the arch's style says of the parts."""
        if self.arch.style not in STYLES:
            raise ValueError(f"{self._who}: no style {self.arch.style!r}; there are {', '.join(STYLES)}")
        return STYLES[self.arch.style]

    @classmethod
    def like_timm(cls, arch: str) -> tuple[dict[str, Any], dict[str, Any]]:
        return dict(LIKE_TIMM), {}

    @classmethod
    def head(cls, arch: str) -> dict[str, Any]:
        if cls.ARCHS[arch].get("style") != "rw":
            return dict(type="NormMlpHead")
        if arch.startswith("rmlp_base"):
            return dict(type="NormMlpHead", norm_eps=1e-6)
        return dict(type="LinearHead", norm="LayerNorm", norm_first=True, norm_eps=1e-6)

    def adapt(self, weights: dict[str, Tensor]) -> dict[str, Tensor]:
        """Tables of relative positions of another window brought to this one's, by `table_resize`."""
        windows = {
            f"{name}.table": [(side + 1) // 2 for side in module.table.shape[1:]]
            for name, module in self.named_modules()
            if isinstance(module, RelativePositionTable)
        }
        return {
            key: resize_table(value, windows[key], self.arch.table_resize) if key in windows else value
            for key, value in weights.items()
        }

    def make_stem(self, in_channels: int) -> nn.Module:
        return MaxViTStem(in_channels, self.arch.stem_dims, self.style, self.arch.bn_momentum)

    def make_stage(self, stage: int, drop_path: Sequence[float]) -> nn.Module:
        arch, style, dim = self.arch, self.style, self.arch.dims[stage]
        before = arch.dims[stage - 1] if stage else arch.stem_dims[-1]
        count = sum(arch.depths)
        blocks = []
        for index, rate in enumerate(drop_path):
            rate = rate if arch.full_drop_path else rate * max(count - 1, 1) / count
            width = before if index == 0 else dim
            hidden = int((dim if style["hidden_of"] == "output" else width) * arch.expand_ratio)
            conv = MBConv(
                width,
                dim,
                stride=2 if index == 0 else 1,
                hidden_dim=hidden,
                se_dim=max(1, int((dim if style["se_of"] == "output" else hidden) * style["se_ratio"])),
                act=style["act"],
                bias=style["bias"],
                same=style["same"],
                count_padding=arch.count_padding,
                eps=style["bn_eps"],
                momentum=arch.bn_momentum,
                drop_path=rate,
            )
            layers = [
                MetaFormerBlock(
                    dim,
                    self._make_mixer(mixer, stage),
                    Mlp(dim, int(dim * arch.mlp_ratio), style["mlp_act"]),
                    (nn.LayerNorm(dim, style["ln_eps"]), nn.LayerNorm(dim, style["ln_eps"])),
                    arch.layer_scale_init,
                    drop_path=rate,
                )
                for mixer in arch.token_mixers[stage]
            ]
            blocks.append(MaxViTBlock(conv, layers))
        return Stage(None, blocks)

    def _make_mixer(self, cfg: str | dict[str, Any], stage: int) -> nn.Module:
        arch, dim = self.arch, self.arch.dims[stage]
        offered = {key: getattr(arch, key) for key in ("head_dim", "table_window", "table_resize", "rel_pos_dim")}
        offered |= dict(rel_pos=arch.rel_pos, num_heads=dim // arch.head_dim)
        if arch.window_size != FOLLOW:
            if isinstance(arch.window_size, str):
                who = f"{self._who}: window_size {arch.window_size!r}"
                raise ValueError(f"{who} must be {FOLLOW!r}, a number of tokens or a pair of them")
            offered["window_size"] = arch.window_size
        elif isinstance(cfg, str) or "window_size" not in cfg:
            offered["num_windows"] = 32 // self.strides[stage]
        return build_mixer(cfg, dim, **offered)


def init_normal(name: str, module: nn.Module) -> None:
    """The authors' initial values: normal of deviation 0.02, biases 0 (tables are so already)."""
    trunc_normal_(module.weight, std=0.02)  # cut 100 deviations out
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def init_vit_eff(name: str, module: nn.Module) -> None:
    """timm's: convolutions, and what is one there, by fan-out; uniform after Xavier in attention and MLPs."""
    if ".layers." in name:
        nn.init.xavier_uniform_(module.weight)
    else:
        groups = getattr(module, "groups", 1)
        nn.init.normal_(module.weight, std=math.sqrt(2.0 * groups / (module.weight[:, 0:1].numel())))
    if module.bias is not None:
        if ".mlp." in name or ".rel_pos." in name:
            nn.init.normal_(module.bias, std=1e-6)
        else:
            nn.init.zeros_(module.bias)
