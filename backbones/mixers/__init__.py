"""Token mixers: each takes and returns (B, H, W, C), any H and W, and is built as `Mixer(dim, **arguments)`."""

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

from torch import nn

from ...registry import MIXERS
from .bi_level_routing import BiLevelRouting
from .block_grid_attention import BlockAttention, GridAttention
from .channel_attention import ChannelAttention
from .depthwise_mixing import DepthwiseMixing
from .focal_modulation import FocalModulation
from .identity import Identity
from .lepe_attention import LepeAttention
from .multi_head_scan import MultiHeadScan
from .neighborhood import Neighborhood
from .pooling import Pooling
from .random_mixing import RandomMixing
from .relative_attention import RelativeAttention
from .self_attention import SelfAttention
from .sep_conv import SepConv
from .single_head_attention import SingleHeadAttention
from .ss2d import SS2D
from .window_attention import WindowAttention

__all__ = [
    "BiLevelRouting",
    "BlockAttention",
    "ChannelAttention",
    "DepthwiseMixing",
    "FocalModulation",
    "GridAttention",
    "Identity",
    "LepeAttention",
    "MultiHeadScan",
    "Neighborhood",
    "Pooling",
    "RandomMixing",
    "RelativeAttention",
    "SS2D",
    "SelfAttention",
    "SepConv",
    "SingleHeadAttention",
    "WindowAttention",
    "build_mixer",
]


def build_mixer(cfg: str | Mapping[str, Any], dim: int, **offered: Any) -> nn.Module:
    """A mixer of `dim` channels from its registered name, or from a dict of `type` and arguments.

    Args:
        cfg: a name may be in snake case: `self_attention` is SelfAttention.
        **offered: the backbone's values (`num_heads=4`), for mixers that take such arguments and `cfg` does not set.
    """
    cfg = dict(type=cfg) if isinstance(cfg, str) else dict(cfg)
    if (kind := cfg.pop("type", None)) is None:
        raise ValueError(f"a token mixer is a registered name or a dict with its type, got {cfg}")
    mixer = _find(kind) if isinstance(kind, str) else kind
    takes = inspect.signature(mixer).parameters if offered else ()
    cfg = {**{key: value for key, value in offered.items() if key in takes}, **cfg}
    return mixer(dim, **cfg)  # not MIXERS.build, which searches a detector's scope first and warns


def _find(name: str) -> type[nn.Module]:
    """The mixer of a name, or of the snake case of one."""
    if (mixer := MIXERS.get(name)) is not None:
        return mixer
    known = {_snake(registered): registered for registered in MIXERS.module_dict}
    if name in known:
        return MIXERS.module_dict[known[name]]
    near = difflib.get_close_matches(_snake(name), known, n=1)
    hint = f" (did you mean {known[near[0]]!r}?)" if near else ""
    raise ValueError(f"no token mixer {name!r}; there are {', '.join(sorted(known.values()))}{hint}")


def _snake(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z][a-z])", "_", name).lower()  # SS2D is ss2d
