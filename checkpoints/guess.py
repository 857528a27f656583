"""Which family weights are of, told by their names: for messages."""

import functools
import re
from collections.abc import Iterable

from ..backbones.base import Backbone
from ..backbones.names import FAMILIES
from .network import Network

LEAST = 0.7  # of the names together that both must have, so that a guess is worth a line


def looks_like(keys: Iterable[str]) -> str | None:
    """'davit (timm names)': the family and layout whose names these most resemble; None if they resemble none.

    Numbers in the names are left aside: how many stages and blocks there are is the arch's matter.
    """
    given = _shapes(keys)
    best, found = LEAST, None
    for family in FAMILIES:
        for layout, known in _names(family).items():
            alike = len(given & known) / len(given | known)
            if alike > best:
                best, found = alike, f"{family.NAME} ({layout} names)"
    return found


def hint(keys: Iterable[str]) -> str:
    """The end of a message about weights that do not fit: whose they look like, if any's."""
    found = looks_like(keys)
    return f"; they look like those of {found}" if found else ""


@functools.cache
def _names(family: type[Backbone]) -> dict[str, set[str]]:
    """By layout, the names of a family's first arch."""
    network = Network(family, next(iter(family.ARCHS)), {})
    layouts = {"bestiary": _shapes(network.own_keys)}
    for layout, key_map in network.key_maps.items():
        layouts[layout] = _shapes(name for key in network.own_keys for name in key_map.theirs(key))
    return layouts


def _shapes(keys: Iterable[str]) -> set[str]:
    # A backbone by itself has no prefix; output norms and heads come and go with what it is used for.
    bare = [key.removeprefix("backbone.") for key in keys]
    return {re.sub(r"\d+", "#", key) for key in bare if not key.startswith(("norms.", "head."))}
