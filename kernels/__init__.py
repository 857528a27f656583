"""Fused operators: one folder each, with a plain PyTorch reference that defines it and a file a backend."""

import importlib

from .bi_level_routing import bi_level_routing_attention
from .dispatch import backends, use_backend
from .neighborhood_attention import neighborhood_attention
from .selective_scan import scan_routes, selective_scan

_HOME = {  # public name: its room, imported at first use
    "na1d": ".neighborhood_attention",
    "na2d": ".neighborhood_attention",
    "na3d": ".neighborhood_attention",
    "NeighborhoodAttention1D": ".neighborhood_attention",
    "NeighborhoodAttention2D": ".neighborhood_attention",
    "NeighborhoodAttention3D": ".neighborhood_attention",
}
__all__ = [
    "backends",
    "bi_level_routing_attention",
    "neighborhood_attention",
    "scan_routes",
    "selective_scan",
    "use_backend",
    *_HOME,
]


def __getattr__(name: str):
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_HOME[name], __name__), name)
