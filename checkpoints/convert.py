"""Names and shapes of weights: ours, timm's, the authors'."""

from collections.abc import Callable, Container, Iterable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..backbones.base import Backbone
from ..backbones.names import resolve_name
from ..errors import InputError
from . import metaformer

LAYOUTS = ("bestiary", "timm", "official")


class KeyMap(NamedTuple):
    """How another code names the weights of one family."""

    rename: Callable[[str], str | None]  # our key -> theirs, None for what they have not
    pointwise: Callable[[str], bool]  # whether they keep this linear weight of ours as a 1 x 1 convolution


KEY_MAPS: dict[str, dict[str, KeyMap]] = {  # a family's NAME: layout: map
    "poolformer": {
        "timm": KeyMap(metaformer.poolformer_to_timm, metaformer.poolformer_is_pointwise),
        "official": KeyMap(metaformer.poolformer_to_official, metaformer.poolformer_is_pointwise),
    },
}


def convert_state_dict(
    state_dict: Mapping[str, Tensor], name: str, source: str = "timm", target: str = "bestiary"
) -> dict[str, Tensor]:
    """The same weights under another code's names and shapes, backbone and classification head alike.

    Args:
        state_dict: weights of a classifier, or of its backbone alone, by key.
        name: the backbone, as `list_backbones()` has it; a tag may follow a dot.
        source, target: 'bestiary' (keys of `ImageClassifier`: backbone.*, head.*), 'timm' or 'official', the authors'.

    Returns:
        Keys of the target. Weights that the target has no place for (the authors' output norms, in timm) are left out.

    Raises:
        InputError: a key that the source does not have in this backbone.
    """
    family, arch = resolve_name(name.partition(".")[0])
    for layout in (source, target):
        if layout != "bestiary" and layout not in KEY_MAPS.get(family.NAME, {}):
            known = ", ".join(("bestiary", *KEY_MAPS.get(family.NAME, {})))
            raise InputError(f"{name}: no key map for {layout!r}; there are {known}")
    if source == target == "bestiary":
        return dict(state_dict)
    if source == "bestiary":
        # A backbone by itself has no prefix.
        ours = {
            key if key.startswith(("backbone.", "head.")) else f"backbone.{key}": value
            for key, value in state_dict.items()
        }
        _check_known(ours, own_keys(family, arch), family, arch, source)
    else:
        ours = _to_ours(state_dict, family, arch, source)
    return ours if target == "bestiary" else _from_ours(ours, KEY_MAPS[family.NAME][target])


def own_keys(family: type[Backbone], arch: str) -> list[str]:
    """Every key that an `ImageClassifier` with this backbone can have, output norms of all stages included."""
    with torch.device("meta"):
        backbone = family(arch)
    head = ["head.fc.weight", "head.fc.bias"]
    if family.HEAD.get("norm"):
        head += ["head.norm.weight", "head.norm.bias"]
    return [f"backbone.{key}" for key in backbone.state_dict()] + head


def _to_ours(state_dict: Mapping[str, Tensor], family: type[Backbone], arch: str, source: str) -> dict[str, Tensor]:
    key_map = KEY_MAPS[family.NAME][source]
    theirs = {renamed: key for key in own_keys(family, arch) if (renamed := key_map.rename(key)) is not None}
    _check_known(state_dict, theirs, family, arch, source)
    converted = {}
    for key, value in state_dict.items():
        ours = theirs[key]
        converted[ours] = value.flatten(1) if value.ndim == 4 and key_map.pointwise(ours) else value
    return converted


def _from_ours(state_dict: Mapping[str, Tensor], key_map: KeyMap) -> dict[str, Tensor]:
    converted = {}
    for key, value in state_dict.items():
        if (renamed := key_map.rename(key)) is not None:
            converted[renamed] = value[..., None, None] if key_map.pointwise(key) else value
    return converted


def _check_known(keys: Iterable[str], known: Container[str], family: type[Backbone], arch: str, source: str) -> None:
    keys = list(keys)
    if unknown := [key for key in keys if key not in known]:
        raise InputError(
            f"{len(unknown)} of {len(keys)} keys are not {source} keys of {family.NAME}_{arch}: "
            f"{', '.join(unknown[:5])}; name the backbone and the source that the weights are of"
        )
