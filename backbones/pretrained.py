"""Loading a checkpoint into a backbone, strictly: every key that misfits is named."""

import re
from collections.abc import Mapping

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import Tensor, nn

from ..errors import InputError


def is_pretrained(init_cfg: object) -> bool:
    """Whether an `init_cfg` asks for a checkpoint."""
    return isinstance(init_cfg, Mapping) and init_cfg.get("type") == "Pretrained"


def misfits(module: nn.Module, state_dict: Mapping[str, Tensor]) -> dict[str, list[str]]:
    """Keys of `module` and `state_dict` that do not pair, by kind: missing, unexpected, mis-shaped."""
    own = module.state_dict()
    return {
        "missing": [key for key in own if key not in state_dict],
        "unexpected": [key for key in state_dict if key not in own],
        "mis-shaped": [
            f"{key} {tuple(value.shape)} for {tuple(own[key].shape)}"
            for key, value in state_dict.items()
            if key in own and value.shape != own[key].shape
        ],
    }


def describe(found: Mapping[str, list[str]], most: int = 5) -> str:
    """`missing 2: a, b; unexpected 1: c`, at most `most` names a kind."""
    parts = []
    for kind, keys in found.items():
        if keys:
            more = f" and {len(keys) - most} more" if len(keys) > most else ""
            parts.append(f"{kind} {len(keys)}: {', '.join(keys[:most])}{more}")
    return "; ".join(parts)


def load_pretrained(backbone: nn.Module, init_cfg: Mapping) -> None:
    """Load `init_cfg['checkpoint']` (a path, URL or scheme such as timm://) into a backbone.

    A classifier's, detector's or segmentor's checkpoint serves too: its `backbone.` part is taken. Output norms that
    the checkpoint has not (other `out_indices`) keep their initial values, and the log says so.

    Raises:
        InputError: keys are missing, unexpected or mis-shaped and `init_cfg` does not say `strict=False`.
    """
    source = init_cfg["checkpoint"]
    loaded = CheckpointLoader.load_checkpoint(source, map_location="cpu", logger="current")
    state_dict = loaded.get("state_dict", loaded)
    prefix = init_cfg.get("prefix") or ("backbone" if any(k.startswith("backbone.") for k in state_dict) else "")
    if prefix:
        prefix = prefix.rstrip(".") + "."
        state_dict = {key[len(prefix) :]: value for key, value in state_dict.items() if key.startswith(prefix)}
    # Norms of single outputs and whole stages belong to a choice of out_indices, not to the pretrained network.
    optional = re.compile(r"norms\.\d+\.")
    stages = len(getattr(backbone, "stages", ()))
    later = re.compile(r"stages\.(\d+)\.")
    own = backbone.state_dict()
    state_dict = {
        key: value
        for key, value in state_dict.items()
        if key in own or not (optional.match(key) or ((at := later.match(key)) and int(at[1]) >= stages))
    }
    found = misfits(backbone, state_dict)
    fresh = [key for key in found["missing"] if optional.match(key)]
    found["missing"] = [key for key in found["missing"] if not optional.match(key)]
    text = describe(found)
    if text and init_cfg.get("strict", True):
        raise InputError(
            f"{source}: does not fit {type(backbone).__name__} ({text}); name the arch that the weights are of, "
            "or set strict=False in init_cfg to take what fits"
        )
    if text:
        print_log(f"{source}: loaded in part into {type(backbone).__name__} ({text})", "current")
    if fresh:
        print_log(f"{source}: no output norms in it; {len(fresh)} keys keep their initial values", "current")
    fitting = {key: value for key, value in state_dict.items() if key in own and value.shape == own[key].shape}
    backbone.load_state_dict(fitting, strict=False)
