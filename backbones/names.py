"""Backbones by name: poolformer_s12, davit_tiny, ... Where timm has the model, ours bears timm's name."""

import difflib
import fnmatch
from typing import Any

from .base import Backbone
from .biformer import BiFormer
from .davit import DaViT
from .focalnet import FocalNet
from .maxvit import MaxViT
from .metaformer import CAFormer, ConvFormer, IdentityFormer, MetaFormer, PoolFormer, PoolFormerV2, RandFormer
from .mhs_vm import MHSVM
from .mobilenet_v2 import MobileNetV2
from .nat import NAT, DiNAT, DiNATs, IsotropicDiNAT, IsotropicNAT, ViTRPB
from .resnet import ResNet
from .shvit import SHViT

FAMILIES: tuple[type[Backbone], ...] = (
    BiFormer,
    CAFormer,
    ConvFormer,
    DaViT,
    DiNAT,
    DiNATs,
    FocalNet,
    IdentityFormer,
    IsotropicDiNAT,
    IsotropicNAT,
    MHSVM,
    MaxViT,
    MetaFormer,
    MobileNetV2,
    NAT,
    PoolFormer,
    PoolFormerV2,
    RandFormer,
    ResNet,
    SHViT,
    ViTRPB,
)
LIKES = ("paper", "timm")


def list_backbones(pattern: str = "*") -> list[str]:
    """Names that match a shell pattern, sorted: `list_backbones('pool*')`."""
    return sorted(fnmatch.filter(_names(), pattern))


def _names() -> dict[str, tuple[type[Backbone], str]]:
    return {family.name_of(arch): (family, arch) for family in FAMILIES for arch in family.ARCHS}


def resolve_name(name: str) -> tuple[type[Backbone], str]:
    """The family's class and the arch of a name.

    Raises:
        ValueError: no such backbone; the message offers the nearest.
    """
    names = _names()
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, names, n=3)
    hint = f"did you mean {', '.join(near)}? " if near else ""
    raise ValueError(f"no backbone {name!r}; {hint}`bestiary list` prints them all")


def build_backbone(name: str, like: str = "paper", **kwargs: Any) -> Backbone:
    """A backbone by name.

    Args:
        name: as `list_backbones()` has it.
        like: 'paper', or 'timm' for timm's arithmetic in the few places where the two differ (see the class).
        **kwargs: of its class (see `Backbone`).

    Raises:
        ValueError: no such backbone, or no such `like`.
    """
    family, arch = resolve_name(name)
    if like not in LIKES:
        raise ValueError(f"build_backbone: like {like!r} must be one of {', '.join(LIKES)}")
    changes = family.like_timm(arch)[0] if like == "timm" else {}
    return family(arch, **{**changes, **kwargs})
