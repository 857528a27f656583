"""Token mixers: each takes and returns (B, H, W, C), any H and W, and is built as `Mixer(dim, **arguments)`."""

import difflib
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...registry import MIXERS
from .channel_attention import ChannelAttention
from .identity import Identity
from .neighborhood import Neighborhood
from .pooling import Pooling
from .relative_attention import RelativeAttention
from .single_head_attention import SingleHeadAttention
from .window_attention import WindowAttention

__all__ = [
    "ChannelAttention",
    "Identity",
    "Neighborhood",
    "Pooling",
    "RelativeAttention",
    "SingleHeadAttention",
    "WindowAttention",
    "build_mixer",
]


def build_mixer(cfg: str | Mapping[str, Any], dim: int, **offered: Any) -> nn.Module:
    """A mixer of `dim` channels from its registered name, or from a dict of `type` and arguments.

    Args:
        **offered: the backbone's values (`num_heads=4`), for mixers that take such arguments and `cfg` does not set.
    """
    cfg = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
    if (kind := cfg.pop("type", None)) is None:
        raise ValueError(f"a token mixer is a registered name or a dict with its type, got {cfg}")
    mixer = MIXERS.get(kind) if isinstance(kind, str) else kind
    if mixer is None:
        near = difflib.get_close_matches(kind, MIXERS.module_dict, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"no token mixer {kind!r}; there are {', '.join(sorted(MIXERS.module_dict))}{hint}")
    takes = inspect.signature(mixer).parameters if offered else ()
    cfg = {**{key: value for key, value in offered.items() if key in takes}, **cfg}
    return mixer(dim, **cfg)  # not MIXERS.build, which searches a detector's scope first and warns
