"""Token mixers: each takes and returns (B, H, W, C), any H and W, and is built as `Mixer(dim, **arguments)`."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from ...registry import MIXERS
from .identity import Identity
from .pooling import Pooling

__all__ = ["Identity", "Pooling", "build_mixer"]


def build_mixer(cfg: str | Mapping[str, Any], dim: int) -> nn.Module:
    """A mixer of `dim` channels from its registered name, or from a dict of `type` and arguments."""
    cfg = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
    kind = cfg.pop("type")
    mixer = MIXERS.get(kind) if isinstance(kind, str) else kind
    if mixer is None:
        raise ValueError(f"no token mixer {kind!r}; there are {', '.join(sorted(MIXERS.module_dict))}")
    return mixer(dim, **cfg)  # not MIXERS.build, which searches a detector's scope first and warns
