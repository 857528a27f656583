"""Keys of MobileNetV2 with channel attention."""

import re
from collections.abc import Callable
from typing import NamedTuple

from ..backbones.layers.channel_attention import attn_type
from ..backbones.mobilenet_v2 import MobileNetV2
from .key_map import KeyMap


class _Block(NamedTuple):
    """Where a block stands."""

    feature: int  # in torchvision's flat list
    group: int  # in timm's groups of blocks of one width
    index: int  # in its group


def mobilenet_v2(backbone: MobileNetV2) -> dict[str, KeyMap]:
    """'official' is torchvision's layout and the ECA authors': the attention stands at the end of a block's list.

    ELA has no release, and timm no MobileNetV2 of these with attention: both maps leave it out there.
    """
    blocks = _blocks(backbone)
    has_attn = attn_type(backbone.arch.attn) == "eca"
    return {
        "timm": KeyMap(_renamer(_timm, blocks)),
        "official": KeyMap(_renamer(lambda *part: _official(*part, has_attn), blocks)),
    }


def _blocks(backbone: MobileNetV2) -> dict[str, _Block]:
    """Our name of each block: where the others have it."""
    places = {"backbone.stem.block": _Block(1, 0, 0)}
    group, index, before = 0, 0, backbone.arch.stem_dims[1]
    for stage in range(len(backbone.strides)):
        for number, width in enumerate(backbone.stage_widths(stage)):
            group, index = (group + 1, 0) if number == 0 or width != before else (group, index + 1)
            places[f"backbone.stages.{stage}.blocks.{number}"] = _Block(len(places) + 1, group, index)
            before = width
    return places


def _renamer(
    rename: Callable[[str, _Block | int | None], str | None], blocks: dict[str, _Block]
) -> Callable[[str], str | None]:
    def renamed(key: str) -> str | None:
        if at := re.match(r"(backbone\.stem\.block|backbone\.stages\.\d\.blocks\.\d+)\.(.*)", key):
            return rename(at[2], blocks[at[1]])
        return rename(key, len(blocks) + 1)  # the last convolution's number

    return renamed


def _official(rest: str, place: _Block | int, has_attn: bool) -> str | None:
    if isinstance(place, int):
        for ours, theirs in (
            ("backbone.stem.conv.conv.", "features.0.0."),
            ("backbone.stem.conv.bn.", "features.0.1."),
            ("head.conv.conv.", f"features.{place}.0."),
            ("head.conv.bn.", f"features.{place}.1."),
            ("head.fc.", "classifier.1."),
        ):
            if rest.startswith(ours):
                return theirs + rest.removeprefix(ours)
        return None
    start, last = f"features.{place.feature}.conv", 1 if place.feature == 1 else 2
    if rest.startswith("attn."):
        return f"{start}.{last + 2}.{rest.removeprefix('attn.')}" if has_attn else None
    _, number, part, name = rest.split(".")
    if int(number) == last:  # without an activation its convolution and norm stand in the list themselves
        return f"{start}.{last + (part == 'bn')}.{name}"
    return f"{start}.{number}.{int(part == 'bn')}.{name}"


def _timm(rest: str, place: _Block | int) -> str | None:
    if isinstance(place, int):
        for ours, theirs in (
            ("backbone.stem.conv.conv.", "conv_stem."),
            ("backbone.stem.conv.bn.", "bn1."),
            ("head.conv.conv.", "conv_head."),
            ("head.conv.bn.", "bn2."),
            ("head.fc.", "classifier."),
        ):
            if rest.startswith(ours):
                return theirs + rest.removeprefix(ours)
        return None
    if rest.startswith("attn."):
        return None
    _, number, part, name = rest.split(".")
    convs = ("conv_dw", "conv_pw") if place.group == 0 else ("conv_pw", "conv_dw", "conv_pwl")
    layer = convs[int(number)] if part == "conv" else f"bn{int(number) + 1}"
    return f"blocks.{place.group}.{place.index}.{layer}.{name}"
