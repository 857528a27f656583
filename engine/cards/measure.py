"""What this code counts of backbones and of configs' models, on the meta device: nothing is computed."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import torch
from mmengine.config import Config
from torch import nn

from ...checkpoints import build_classifier
from ...errors import InputError
from ...registry import MODELS
from ..complexity import build_meta, count_multiply_adds, count_parameters
from ..configs import load_config
from ..quiet import quiet
from .source import MEASURED, Variant, measurements

CUSTOMARY = {
    "ade20k": (512, 2048),
    "cityscapes": (512, 1024),
    "-896": (896, 896),
}  # height, width at which papers count


def count_backbone(variant: Variant) -> dict[str, int]:
    """Parameters that train, and multiply-adds for one picture, of a backbone with its classification head.

    Of `classes=0` the last linear layer is left out of both, its bias too.
    """
    with torch.device("meta"):
        model = build_classifier(variant.name, variant.classes or 1000).eval()
    parameters = count_parameters(model)
    operations = count_multiply_adds(model, variant.size, variant.size)
    if not variant.classes:
        parameters -= count_parameters(model.head.fc)
        operations -= model.head.fc.weight.numel()
    return dict(parameters=parameters, multiply_adds=operations, size=variant.size)


def count_config(name: str) -> dict[str, Any]:
    """What a config trains: parameters, recipe, and multiply-adds where they do not hang on what is in the picture.

    Returns:
        `parameters`; `recipe`; `backbone` of a classifier, as `list_backbones()` has it; and `multiply_adds` with
        `size`, [height, width], or neither of the two.
    """
    cfg = load_config(name)
    size = picture_size(name, cfg)
    with quiet():
        model = build_meta(cfg)
        operations = _multiply_adds(model, size)
    figures: dict[str, Any] = dict(parameters=count_parameters(model), recipe=recipe_of(cfg))
    if cfg.model.type.endswith("ImageClassifier"):
        backbone = cfg.model.backbone
        figures["backbone"] = MODELS.get(backbone.type.removeprefix("bestiary.")).name_of(backbone.arch)
    return figures if operations is None else figures | dict(multiply_adds=operations, size=list(size))


def _multiply_adds(model: nn.Module, size: tuple[int, int]) -> int | None:
    """None where they hang on queries and boxes: DINO, Mask2Former."""
    try:
        return count_multiply_adds(model, *size)
    except InputError:
        return None


def recipe_of(cfg: Config) -> dict[str, Any]:
    """Optimizer, rate, weight decay, the batch that they belong to, and the length in epochs or iterations."""
    optimizer = cfg.optim_wrapper.optimizer
    epochs = cfg.train_cfg.get("max_epochs")
    return dict(
        optimizer=optimizer.get("name", optimizer.type).rsplit(".", 1)[-1],
        lr=optimizer.lr,
        weight_decay=optimizer.get("weight_decay", 0),
        batch=cfg.auto_scale_lr.base_batch_size,
        **(dict(epochs=epochs) if epochs else dict(iterations=cfg.train_cfg.max_iters)),
    )


def picture_size(name: str, cfg: Config) -> tuple[int, int]:
    """Height and width at which papers count a config's model."""
    for part, size in CUSTOMARY.items():
        if part in name:
            return size
    if cfg.get("default_scope") == "mmdet":
        return 800, 1280
    for step in cfg.test_pipeline:
        if isinstance(side := step.get("input_size") or step.get("scale"), int | tuple | list):
            return (side, side) if isinstance(side, int) else (side[1], side[0])
    raise InputError(f"{name}: its test pipeline does not say how large a picture is")


def disagreements(kind: str, names: Iterable[str], count: Callable[[str], dict[str, Any]]) -> list[str]:
    """What is counted now and differs from `measured.json`, a line each.

    Args:
        kind: 'backbones' or 'configs'.
        names: whose figures are counted again.
        count: from a name to its figures.
    """
    lines = []
    for name in names:
        stored, now = measurements()[kind].get(name), count(name)
        if stored is None:
            lines.append(f"{name}: measured.json has no figures of it: `bestiary card --write --measure`")
        elif stored != now:
            lines.append(f"{name}: measured.json has {stored}, counted now {now}: `bestiary card --write --measure`")
    return lines


def write_measurements(backbones: dict[str, dict], configs: dict[str, dict]) -> None:
    """Put figures into `measured.json`, beside those of others that stand there."""
    stored = measurements()
    merged = {
        "backbones": dict(sorted({**stored["backbones"], **backbones}.items())),
        "configs": dict(sorted({**stored["configs"], **configs}.items())),
    }
    lines = []
    for kind, figures in merged.items():
        rows = ",\n".join(f"  {json.dumps(name)}: {json.dumps(row)}" for name, row in figures.items())
        lines.append(f' "{kind}": {{\n{rows}\n }}')
    MEASURED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    measurements.cache_clear()
