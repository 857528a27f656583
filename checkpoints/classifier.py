"""Loading a classifier's weights, whoever's names they bear."""

from mmengine.logging import print_log
from mmengine.runner import CheckpointLoader
from torch import nn

from ..backbones.pretrained import describe, misfits
from ..errors import InputError
from .convert import LAYOUTS, convert_state_dict


def load_classifier(model: nn.Module, name: str, source: str, strict: bool = True) -> None:
    """Load a path, URL or `timm://name` into an `ImageClassifier`, whether the names are ours, timm's or the authors'.

    Where the head has another number of classes than the weights, the backbone alone is loaded, and the log says so.

    Args:
        name: the backbone, as `list_backbones()` has it.
        strict: raise if keys are missing, unexpected or mis-shaped; otherwise load what fits and log the rest.

    Raises:
        InputError: the weights are of no known layout of this backbone, or do not fit.
    """
    loaded = CheckpointLoader.load_checkpoint(source, map_location="cpu", logger="current")
    state_dict = loaded.get("state_dict", loaded.get("model", loaded))
    refusals = []
    for layout in LAYOUTS:
        try:
            # Through timm's names and back would lose nothing, but ours need no way round.
            ours = convert_state_dict(state_dict, name, layout, "bestiary")
        except InputError as refusal:
            refusals.append(str(refusal))
            continue
        if layout != "bestiary" or any(key.startswith("backbone.") for key in ours):
            break
    else:
        raise InputError(f"{source}: not weights of {name} in any known layout: {'; '.join(refusals)}")
    own = model.state_dict()
    found = misfits(model, ours)
    other_head = [key for key in found["mis-shaped"] if key.startswith("head.fc.")]
    if other_head:
        print_log(f"{source}: the head is of other classes ({other_head[0]}); it keeps its initial values", "current")
        ours = {key: value for key, value in ours.items() if not key.startswith("head.fc.")}
        found = misfits(model, ours)
        found["missing"] = [key for key in found["missing"] if not key.startswith("head.fc.")]
    if text := describe(found):
        if strict:
            raise InputError(f"{source}: does not fit {name} ({text}); name the backbone that the weights are of")
        print_log(f"{source}: loaded in part ({text})", "current")
    fitting = {key: value for key, value in ours.items() if key in own and value.shape == own[key].shape}
    model.load_state_dict(fitting, strict=False)
