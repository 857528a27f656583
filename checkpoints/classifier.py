"""Loading a classifier's weights, whoever's names they bear."""

from mmengine.logging import print_log
from torch import nn

from ..backbones.pretrained import compare_weights, unwrapped
from ..backbones.reading import read_checkpoint
from ..errors import InputError
from .convert import LAYOUTS, convert_state_dict


def load_classifier(model: nn.Module, name: str, source: str, strict: bool = True) -> None:
    """Load a path, URL or `timm://name` into an `ImageClassifier`, whether the names are ours, timm's or the authors'.

    Where the head has another number of classes than the weights, the backbone alone is loaded, and the log says so.

    Args:
        name: the backbone, as `list_backbones()` has it.
        source: what `read_checkpoint` takes.
        strict: raise if keys are missing, unexpected or mis-shaped; otherwise load what fits and log the rest.

    Raises:
        InputError: no such file or not a checkpoint; the weights are of no known layout of this backbone; they do not
            fit.
    """
    state_dict = unwrapped(read_checkpoint(source)["state_dict"])
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
    report = compare_weights(model, ours)
    other_head = [key for key in report.misshaped if key.startswith("head.fc.")]
    if other_head and all(report.misshaped[key][0][1:] == report.misshaped[key][1][1:] for key in other_head):
        got, want = report.misshaped[other_head[0]]
        print_log(f"{source}: its head has {got[0]} classes, ours {want[0]}: ours keeps its initial values", "current")
        for key in other_head:
            del report.misshaped[key]
    if report and strict:
        raise InputError(f"{source}: does not fit {name}: {report.words()}. Name the backbone that the weights are of")
    if report:
        print_log(f"{source}: loaded in part: {report.words()}", "current")
    left_out = {*report.unexpected, *report.misshaped, *other_head}
    model.load_state_dict({key: value for key, value in ours.items() if key not in left_out}, strict=False)
