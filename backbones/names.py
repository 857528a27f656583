"""Backbones by name: poolformer_s12, davit_tiny, ... Where timm has the model, ours bears timm's name."""

import difflib
import fnmatch
from typing import Any

from .base import Backbone
from .metaformer import PoolFormer

FAMILIES: tuple[type[Backbone], ...] = (PoolFormer,)


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted: `list_backbones('pool*')`."""
    return sorted(fnmatch.filter((f"{family.NAME}_{arch}" for family in FAMILIES for arch in family.ARCHS), pattern))


def resolve_name(name: str) -> tuple[type[Backbone], str]:
    """The family's class and the arch of a name.

    Raises:
        ValueError: no such backbone; the message offers the nearest.
    """
    for family in FAMILIES:
        arch = name.removeprefix(f"{family.NAME}_")
        if arch != name and arch in family.ARCHS:
            return family, arch
    near = difflib.get_close_matches(name, list_backbones(), n=3)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise ValueError(f"no backbone {name!r}; {hint}`bestiary list` prints them all")


def build_backbone(name: str, **kwargs: Any) -> Backbone:
    """A backbone by name; keyword arguments are those of its class (see `Backbone`)."""
    family, arch = resolve_name(name)
    return family(arch, **kwargs)
