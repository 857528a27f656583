"""Attention modules that any convolutional block takes by config: `attn="eca"`, or a dict of type and arguments."""

import difflib
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from timm.layers import SEModule
from timm.layers.cbam import CbamModule
from timm.layers.coord_attn import CoordAttn
from torch import nn

from .eca import ECA
from .ela import ELA, ELA_SIZES

AttnConfig = str | Mapping[str, Any] | None

# Each is called with the channels, and takes and returns (B, C, H, W).
ATTENTIONS: dict[str, Callable[..., nn.Module]] = {
    "eca": ECA,
    **{name: partial(ELA, **size) for name, size in ELA_SIZES.items()},
    # timm's, to compare with: squeeze-and-excitation (arXiv:1709.01507), CBAM (arXiv:1807.06521) and coordinate
    # attention (arXiv:2103.02907).
    "se": SEModule,
    "cbam": CbamModule,
    "coord": CoordAttn,
}


def attn_type(cfg: AttnConfig) -> Any:
    """The type that a config asks for; None for none."""
    return cfg.get("type") if isinstance(cfg, Mapping) else cfg


def build_attn(cfg: AttnConfig, channels: int, **defaults: Any) -> nn.Module | None:
    """An attention module for maps of so many channels, or None.

    Args:
        cfg: None, a name of `ATTENTIONS`, or a dict of `type` (a name, or a class that is called with the channels)
            and arguments.
        channels: of the map.
        **defaults: arguments where the dict has none of that name.

    Raises:
        ValueError: no such attention, or a dict without a type.
    """
    if cfg is None:
        return None
    arguments = dict(cfg) if isinstance(cfg, Mapping) else dict(type=cfg)
    if (kind := arguments.pop("type", None)) is None:
        raise ValueError(f"attn is None, a name, or a dict with its type, got {cfg}")
    if isinstance(kind, str):
        if kind not in ATTENTIONS:
            near = difflib.get_close_matches(kind, ATTENTIONS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"no attn {kind!r}; there are {', '.join(ATTENTIONS)}{hint}")
        kind = ATTENTIONS[kind]
    return kind(channels, **{**defaults, **arguments})
