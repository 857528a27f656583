"""Names and shapes of weights: ours, timm's, the authors'."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from ..backbones.base import Backbone
from ..backbones.names import resolve_name
from ..backbones.pretrained import TRANSLATORS
from ..errors import InputError
from .guess import looks_like
from .network import Network


def convert_state_dict(
    state_dict: Mapping[str, Tensor], name: str, source: str = "timm", target: str = "bestiary", **changes: Any
) -> dict[str, Tensor]:
    """The same weights under another code's names and shapes, backbone and classification head alike.

    Args:
        state_dict: weights of a classifier, or of its backbone alone, by key.
        name: the backbone, as `list_backbones()` has it; a tag may follow a dot.
        source, target: 'bestiary' (keys of `ImageClassifier`: backbone.*, head.*), 'timm' or 'official', the authors'.
        **changes: keys of the arch that differ from the table's: `depths=(1, 1, 1, 1)`.

    Returns:
        Keys of the target. Weights that the target has no place for (the authors' output norms, in timm) are left out.

    Raises:
        InputError: a key that the source does not have in this backbone.
    """
    network = Network(*resolve_name(name.partition(".")[0]), changes)
    for layout in (source, target):
        if layout != "bestiary" and layout not in network.key_maps:
            known = ", ".join(("bestiary", *network.key_maps))
            raise InputError(f"{name}: no key map for {layout!r}; there are {known}")
    if source == target == "bestiary":
        return dict(state_dict)
    ours = network.to_ours(state_dict, source)
    return ours if target == "bestiary" else network.from_ours(ours, target)


def _translate(backbone: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
    """A backbone's weights in whatever layout they come, under its own names; None if they are of no known layout.

    Raises:
        InputError: they are another family's.
    """
    if not isinstance(backbone, Backbone):
        return None
    arch = {key: value for key, value in vars(backbone.arch).items() if key != "name"}
    network = Network(type(backbone), arch, dict(in_channels=backbone.in_channels))
    try:
        return network.recognise(state_dict, backbone, "backbone")[0]
    except InputError as error:
        if (found := looks_like(state_dict)) and not found.startswith(f"{backbone.NAME} "):
            raise InputError(f"the weights look like those of {found}, not of {type(backbone).__name__}") from error
        return None  # the caller compares the keys as they came, and names those that misfit


TRANSLATORS.append(_translate)
