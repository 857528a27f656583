"""Keys of MaxViT."""

import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..backbones.base import Backbone
from .key_map import KeyMap, matching, renaming

QKV = re.compile(r"\.qkv\.(weight|bias)$")
TABLE = re.compile(r"\.rel_pos\.table$")
# One of our attention layers -> the mixer's name in timm.
TIMM_LAYERS = {"BlockAttention": "attn_block", "GridAttention": "attn_grid"}
CONVOLUTION = matching(r"\.(conv[12]|depthwise)\.weight$")
POINTWISE = matching(r"\.(expand|project|shortcut|se\.fc[12])\.weight$")


def maxvit(backbone: Backbone) -> dict[str, KeyMap]:
    """timm has the bottlenecks' layers as 1 x 1 convolutions; the authors' are TensorFlow's variables, by name."""
    # A backbone that bears no name can be of any of the heads: what a file has of them is passed over.
    skip = {} if backbone.arch.name in backbone.ARCHS else dict(skip=matching(r"^(norm|head)\."))
    if backbone.arch.style == "rw":
        split, join = _rw_shapes(backbone)
        return {"timm": KeyMap(_timm_names(backbone), POINTWISE, split, join, **skip)}
    split, join = _official_shapes(backbone)
    return {
        "timm": KeyMap(_timm_names(backbone), POINTWISE, **skip),
        "official": KeyMap(_official_names, split=split, join=join),
    }


def _timm_names(backbone: Backbone) -> Callable[[str], str | None]:
    mixers = backbone.arch.token_mixers

    def layer(at: re.Match) -> str:
        mixer = mixers[int(at[1])][int(at[3])]
        kind = mixer if isinstance(mixer, str) else mixer.get("type")
        return f"stages.{at[1]}.blocks.{at[2]}.{TIMM_LAYERS.get(kind, f'layers.{at[3]}')}."

    rules = [
        (r"^backbone\.", ""),
        (r"^stages\.(\d)\.blocks\.(\d+)\.layers\.(\d)\.", layer),
        (r"\.token_mixer\.", ".attn."),
        (r"\.rel_pos\.table$", ".rel_pos.relative_position_bias_table"),
        (r"\.rel_pos\.fc([12])\.", r".rel_pos.mlp.fc\1."),
        (r"\.layer_scale([12])\.scale$", r".ls\1.gamma"),
        (r"\.conv\.expand\.", ".conv.conv1_1x1."),
        (r"\.conv\.depthwise\.", ".conv.conv2_kxk."),
        (r"\.conv\.project\.", ".conv.conv3_1x1."),
        (r"\.conv\.shortcut\.", ".conv.shortcut.expand."),
        (r"^head\.hidden\.", "head.pre_logits.fc."),
    ]
    if backbone.arch.style == "rw" and not _hidden_head(backbone):
        rules.append((r"^head\.norm\.", "norm."))
    return renaming(rules)


def _hidden_head(backbone: Backbone) -> bool:
    name = backbone.arch.name
    return name in backbone.ARCHS and backbone.head(name)["type"] == "NormMlpHead"


def _rw_shapes(
    backbone: Backbone,
) -> tuple[Callable[[str, Tensor], tuple[Tensor, ...]], Callable[[str, Tensor], Tensor]]:
    """timm's own networks: q, k and v lie together head by head; tables are (positions, heads), of query less key."""

    def heads(key: str, value: Tensor) -> int:
        return len(value) // (3 * backbone.arch.head_dim)

    def split(key: str, value: Tensor) -> tuple[Tensor, ...]:
        if QKV.search(key):
            value = value.unflatten(0, (3, heads(key, value), -1)).transpose(0, 1).flatten(0, 2)
        elif TABLE.search(key):
            value = value.flip(1, 2).flatten(1).T.contiguous()
        return (value,)

    def join(key: str, value: Tensor) -> Tensor:
        if QKV.search(key):
            return value.unflatten(0, (heads(key, value), 3, -1)).transpose(0, 1).flatten(0, 2)
        if TABLE.search(key):
            side = math.isqrt(len(value))  # a table of another window is a square's
            shape = tuple(backbone.get_parameter(key.removeprefix("backbone.")).shape[1:])
            shape = shape if math.prod(shape) == len(value) else (side, side)
            return value.T.unflatten(1, shape).flip(1, 2)
        return value

    return split, join


# The authors' layers, and what TensorFlow calls a weight in each kind of them.
NORM = {"weight": "gamma", "bias": "beta", "running_mean": "moving_mean", "running_var": "moving_variance"}
CONV = {"weight": "kernel", "bias": "bias"}
DEPTHWISE = {"weight": "depthwise_kernel"}
DENSE = {"weight": "weight", "bias": "bias"}
OUTSIDE = {
    "backbone.stem.conv1": ("stem/conv_0", CONV),
    "backbone.stem.norm1": ("stem/norm_0", NORM),
    "backbone.stem.conv2": ("stem/conv_1", CONV),
    "head.norm": ("final_layer_norm", NORM),
    "head.hidden": ("cls_head/inner_dense", DENSE),
    "head.fc": ("cls_head/logit_dense", DENSE),
}
BOTTLENECK = {
    "pre_norm": ("pre_norm", NORM),
    "expand": ("expand_conv", CONV),
    "norm1": ("expand_norm", NORM),
    "depthwise": ("depthwise_conv", DEPTHWISE),
    "norm2": ("depthwise_norm", NORM),
    "se.fc1": ("se/reduce_conv2d", CONV),
    "se.fc2": ("se/expand_conv2d", CONV),
    "project": ("shrink_conv", CONV),
    "shortcut": ("shortcut_conv", CONV),
}
LAYER = {  # {} is empty in the layer of windows, _1 in the layer of the grid
    "norm1": ("attn_layer_norm{}", NORM),
    "token_mixer.proj": ("attention{}/o", DENSE),
    "token_mixer.rel_pos": ("attention{}", {"table": "relative_bias"}),
    "norm2": ("ffn_layer_norm{}", NORM),
    "mlp.fc1": ("ffn{}/expand_dense", DENSE),
    "mlp.fc2": ("ffn{}/shrink_dense", DENSE),
}
IN_BLOCK = re.compile(r"^backbone\.stages\.(\d)\.blocks\.(\d+)\.(?:conv|layers\.([01]))\.(.+)$")
SHADOW = "/ExponentialMovingAverage"


def _official_names(key: str) -> str | tuple[str, ...] | None:
    """The variable in the authors' TensorFlow model, or three of them where q, k and v are one here."""
    layer, _, leaf = key.rpartition(".")
    if leaf == "num_batches_tracked":
        return None
    if layer in OUTSIDE:
        name, leaves = OUTSIDE[layer]
        return f"maxvit/{name}/{leaves[leaf]}"
    if not (at := IN_BLOCK.match(layer)):
        return None
    block, half = f"maxvit/block_{int(at[1]):02d}_{int(at[2]):02d}", "_1" if at[3] == "1" else ""
    if at[4] == "token_mixer.qkv":
        return tuple(f"{block}/attention{half}/{part}/{leaf}" for part in "qkv")
    name, leaves = BOTTLENECK[at[4]] if at[3] is None else LAYER[at[4]]
    return f"{block}/{'mbconv/' if at[3] is None else ''}{name.format(half)}/{leaves[leaf]}"


def _official_shapes(
    backbone: Backbone,
) -> tuple[Callable[[str, Tensor], tuple[Tensor, ...]], Callable[..., Tensor]]:
    """Convolutions as (rows, columns, in, out), dense layers as (in, out), heads apart from their channels."""
    head_dim = backbone.arch.head_dim

    def split(key: str, value: Tensor) -> tuple[Tensor, ...]:
        if QKV.search(key):  # (3 C, C) -> three (C, heads, 32)
            value = value.unflatten(0, (3, -1, head_dim))
            return tuple(part.movedim(-1, 0) if part.ndim == 3 else part for part in value.unbind(0))
        if key.endswith(".proj.weight"):
            value = value.T.unflatten(0, (-1, head_dim))
        elif CONVOLUTION(key):
            value = value.permute(2, 3, 0, 1) if ".depthwise." in key else value.permute(2, 3, 1, 0)
        elif value.ndim == 2:
            value = value.T[None, None] if POINTWISE(key) else value.T
        return (value.contiguous(),)

    def join(key: str, *values: Tensor) -> Tensor:
        value = values[0]
        if QKV.search(key):
            parts = [part.movedim(0, -1) if part.ndim == 3 else part for part in values]
            return torch.stack(parts).flatten(0, 2)
        if key.endswith(".proj.weight"):
            value = value.flatten(0, 1).T
        elif CONVOLUTION(key):
            value = value.permute(2, 3, 0, 1) if ".depthwise." in key else value.permute(3, 2, 0, 1)
        elif POINTWISE(key):
            value = value.flatten(0, 2).T
        elif value.ndim == 2:
            value = value.T
        return value.contiguous()

    return split, join


def without_shadows(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The authors' checkpoint as its evaluation has it: each variable's moving average in its place, if it has one.

    What belongs to the optimizer and the loop (names that do not begin with maxvit/) is left out.
    """
    return {
        name: variables.get(name + SHADOW, value)
        for name, value in variables.items()
        if name.startswith("maxvit/") and not name.endswith(SHADOW)
    }
