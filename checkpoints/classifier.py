"""Classifiers with their weights, whoever's names these bear."""

from typing import Any

from mmengine.logging import print_log
from torch import nn

from ..backbones.names import resolve_name
from ..backbones.pretrained import unwrapped
from ..backbones.reading import read_checkpoint
from ..errors import InputError
from ..heads import ImageClassifier, make_classifier
from .guess import hint
from .network import Network


def build_classifier(
    name: str, num_classes: int = 1000, pretrained: str | bool = False, **kwargs: Any
) -> ImageClassifier:
    """An image classifier by its backbone's name: `build_classifier('poolformer_s12', num_classes=10)`.

    Args:
        name: as `list_backbones()` has it.
        num_classes: classes of the head.
        pretrained: a checkpoint to load, as for `load_classifier` (`'timm://poolformer_s12.sail_in1k'`, a path, a
            URL); True takes timm's default weights of that name. Where the head has another number of classes, the
            backbone alone is loaded, and the log says so.
        **kwargs: `like`, `head`, `mixup` and arguments of the backbone, see `make_classifier`.
    """
    model = make_classifier(name, num_classes, **kwargs)
    if pretrained:
        load_classifier(model, name, f"timm://{name}" if pretrained is True else pretrained)
    return model


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
    values = {key: value for key, value in vars(model.backbone.arch).items() if key != "name"}
    network = Network(*resolve_name(name), dict(values, in_channels=model.backbone.in_channels))
    try:
        ours, report = network.recognise(state_dict, model)
    except InputError as error:
        raise InputError(f"{source}: {error}{hint(state_dict)}") from error
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
