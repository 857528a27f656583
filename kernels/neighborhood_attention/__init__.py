"""Neighborhood attention: every token attends to a window around it (NAT, DiNAT; arXiv:2204.07143, 2209.15001)."""

import importlib

from .dispatch import neighborhood_attention

_HOME = {  # public name: its file, imported at first use
    "na1d": ".functional",
    "na2d": ".functional",
    "na3d": ".functional",
    "NeighborhoodAttention1D": ".modules",
    "NeighborhoodAttention2D": ".modules",
    "NeighborhoodAttention3D": ".modules",
}
__all__ = ["neighborhood_attention", *_HOME]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
