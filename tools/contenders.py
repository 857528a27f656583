"""What `bestiary compare` sets side by side: backbones by name, timm's models, configs, work directories of runs."""

import difflib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import timm
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from torch import nn

from bestiary.backbones import TimmBackbone, build_backbone, list_backbones
from bestiary.checkpoints import build_classifier
from bestiary.engine.cards import published_top1
from bestiary.engine.complexity import without_weights
from bestiary.engine.configs import load_config, shipped_configs
from bestiary.errors import InputError
from bestiary.registry import MODELS

TOP1 = "ImageNet-1k top-1"
SCORES = {  # of metrics.json, the first that ends so: what it is
    "accuracy/top1": "top-1",
    "mIoU": "mIoU",
    "bbox_mAP": "box AP",
    "segm_mAP": "mask AP",
}


class Accuracy(NamedTuple):
    """A score in percent."""

    value: float
    metric: str  # what was scored; '' where a person gave the number alone
    source: str  # whose figure it is
    size: int | None = None  # side of the pictures that it was scored on, where it is known


class Contender(NamedTuple):
    """One network of a comparison."""

    text: str  # as it was asked for
    name: str  # as it is shown
    whose: str  # 'bestiary', 'timm', 'config', 'run'
    classifies: bool  # False: of a detector or segmentor, whose backbone alone is compared
    build: Callable[[bool, int], nn.Module]  # of (feature maps instead of logits, side of the picture)
    accuracy: Accuracy | None = None


def resolve(text: str) -> Contender:
    """The contender that a word of the command line names.

    Raises:
        InputError: there is nothing of that name (the nearest are offered); a folder without a run.
    """
    if text.startswith("timm:"):
        return of_timm(text, text.removeprefix("timm:"))
    if text in list_backbones():
        return of_ours(text)
    if Path(text).is_dir():
        return of_run(text)
    if "/" in text or text.endswith(".py"):
        return of_config(text, load_config(text))
    if timm.is_model(text):
        return of_timm(text, text)
    known = [*list_backbones(), *timm.list_models(), *(name.rsplit("/", 1)[-1] for name in shipped_configs())]
    near = difflib.get_close_matches(text, dict.fromkeys(known), n=3)
    hint = f"; did you mean {', '.join(near)}?" if near else ""
    raise InputError(
        f"{text}: no backbone of ours or timm's, no config and no work directory{hint} (`bestiary list` prints ours, "
        "timm:NAME insists on timm's)"
    )


def of_ours(name: str) -> Contender:
    """A backbone of ours, with the accuracy that its card knows."""

    def build(features: bool, size: int) -> nn.Module:
        return build_backbone(name) if features else build_classifier(name)

    return Contender(name, name, "bestiary", True, build, of_card(name))


def of_card(name: str) -> Accuracy | None:
    """What was published of a backbone or, with a tag, of its weights; None where no card has it."""
    score = published_top1(name)
    return score and Accuracy(score.top1, TOP1, score.by, score.size)


def of_timm(text: str, name: str) -> Contender:
    """A model of timm.

    Raises:
        InputError: timm has none of that name.
    """
    if not timm.is_model(name):
        near = difflib.get_close_matches(name, timm.list_models(), n=3)
        hint = f"; did you mean {', '.join(near)}?" if near else ""
        raise InputError(f"{text}: timm {timm.__version__} has no model {name!r}{hint}")

    def build(features: bool, size: int) -> nn.Module:
        make = (
            (lambda **more: TimmBackbone(name, **more))
            if features
            else (lambda **more: timm.create_model(name, **more))
        )
        if usual is not None and usual.input_size[-1] != size:
            try:
                return make(img_size=size)  # transformers with windows or positions of one size
            except (TypeError, ValueError):  # a network that takes any, and no such argument
                pass
        return make()

    usual = timm.get_pretrained_cfg(name)
    tagged = name if "." in name or usual is None else f"{name}.{usual.tag}"
    return Contender(text, f"timm {name}", "timm", True, build, of_card(tagged))


def of_config(text: str, cfg: Config, whose: str = "config", accuracy: Accuracy | None = None) -> Contender:
    """A config's classifier, or the backbone of its detector or segmentor.

    Raises:
        InputError: it has no model with a backbone.
    """
    model = cfg.get("model") or {}
    if "backbone" not in model:
        raise InputError(f"{text}: the config has no model.backbone; is it a part that others inherit from?")
    classifies = str(model.get("type")).rsplit(".", 1)[-1] == "ImageClassifier"

    def build(features: bool, size: int) -> nn.Module:
        with DefaultScope.overwrite_default_scope(cfg.get("default_scope") or "bestiary"):
            return MODELS.build(without_weights(cfg.model.backbone if features or not classifies else cfg.model))

    path = Path(text)
    name = path.name if whose == "run" else path.name.removesuffix(".py")
    return Contender(text, name, whose, classifies, build, accuracy)


def of_run(text: str) -> Contender:
    """A work directory: the config that the run left there, and the score of its last evaluation.

    Raises:
        InputError: no run has written into it.
    """
    folder = Path(text)
    configs = sorted(folder.glob("*.py"), key=lambda path: path.stat().st_mtime)
    if not configs:
        raise InputError(
            f"{text}: a folder without a run: `bestiary train` leaves the config (*.py) and metrics.json in its work "
            "directory"
        )
    try:
        content = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
        accuracy = score_of(content, f"{folder.name}/metrics.json")
    except FileNotFoundError:
        accuracy = None  # never evaluated
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{folder / 'metrics.json'}: not a run's scores: {error}") from error
    return of_config(text, load_config(str(configs[-1])), "run", accuracy)


def score_of(content: dict[str, Any], source: str) -> Accuracy | None:
    """The leading score of a `metrics.json`, in percent."""
    for ending, words in SCORES.items():
        for key, value in content["metrics"].items():
            if key.endswith(ending) and value is not None:
                return Accuracy(100 * float(value), f"{words}, {content.get('split', 'val')}", source)
    return None


def given(words: list[str], contenders: list[Contender]) -> list[Contender]:
    """The contenders with the accuracies that the command line gives them, as `resnet50=80.4`.

    Raises:
        InputError: not of that form; no such contender.
    """
    values: dict[str, Accuracy] = {}
    for word in words:
        name, _, number = word.rpartition("=")
        try:
            values[name] = Accuracy(float(number), "", "given")
        except ValueError:
            raise InputError(f"--accuracy {word}: give NAME=PERCENT, as resnet50=80.4") from None
        if not any(name in (one.text, one.name) for one in contenders):
            raise InputError(
                f"--accuracy {word}: {name!r} is not compared; there are {', '.join(c.text for c in contenders)}"
            )
    return [one._replace(accuracy=values.get(one.text) or values.get(one.name) or one.accuracy) for one in contenders]


def named_apart(contenders: list[Contender]) -> list[Contender]:
    """The contenders with names of their own: what two share gets the text that it was asked for by."""
    names = [one.name for one in contenders]
    return [one if names.count(one.name) == 1 else one._replace(name=one.text) for one in contenders]


def ready(contender: Contender, features: bool, size: int, device: torch.device) -> nn.Module:
    """The network on the device, tried on one picture.

    Raises:
        InputError: it cannot be built, or does not take pictures of that size.
    """
    try:
        torch.manual_seed(0)
        model = contender.build(features, size).to(device).eval()
        with torch.no_grad():
            model(torch.randn(1, 3, size, size, device=device))
    except (RuntimeError, ValueError, TypeError, AssertionError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(f"{contender.text}: does not take pictures of {size} x {size}: {words}") from error
    return model
