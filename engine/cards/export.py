"""A card of a model that a person has trained, from its work directory, in the form of the Hugging Face hub."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from mmengine.config import Config

from ...errors import InputError
from ..complexity import build_meta, count_parameters
from ..configs import load_config
from ..results import checkpoints_of
from .measure import recipe_of

TASKS = {"mmdet": "object-detection", "mmseg": "image-segmentation"}  # default scope: the hub's name of the task


def export(work_dir: Path, out: Path | None = None) -> Path:
    """Write the card; returns its path.

    Args:
        work_dir: of a run of `bestiary train`: it has the config, a checkpoint and `metrics.json`.
        out: the file to write, `work_dir/README.md` if None.

    Raises:
        InputError: the work directory lacks one of these, or the file cannot be written.
    """
    out = out or work_dir / "README.md"
    text = describe(work_dir)
    try:
        out.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{out}: the card cannot be written there: {error.strerror}") from error
    return out


def describe(work_dir: Path) -> str:
    """The card's text.

    Raises:
        InputError: the work directory lacks a config, a checkpoint or scores.
    """
    config, checkpoint, run = parts_of(work_dir)
    cfg = load_config(str(config))
    task = TASKS.get(cfg.get("default_scope"), "image-classification")
    backbone = dict(cfg.model.get("backbone", {}))
    family = str(backbone.get("type", cfg.model.type)).removeprefix("bestiary.")
    arch = backbone.get("arch", backbone.get("model_name"))
    data = dataset_of(cfg)
    scores = {name: value for name, value in run["metrics"].items() if value is not None}
    metrics = [{"type": name.rsplit("/", 1)[-1], "name": name, "value": value} for name, value in scores.items()]
    front: dict[str, Any] = {
        "license": "unknown",
        "library_name": "bestiary",
        "pipeline_tag": task,
        "tags": ["bestiary", family.lower()],
        "model-index": [
            {
                "name": work_dir.resolve().name,
                "results": [{"task": {"type": task}, "dataset": {"type": "custom", "name": data}, "metrics": metrics}],
            }
        ],
    }
    named = f"{family} `{arch}`" if isinstance(arch, str) else family
    rows = "\n".join(f"| {name} | {value:.4f} |" for name, value in scores.items())
    when = f"epoch {run['epoch']}" if run.get("epoch") is not None else "the end"
    recipe = "\n".join(f"- {key.replace('_', ' ')}: {value}" for key, value in recipe_lines(cfg).items())
    return f"""---
{yaml.safe_dump(front, sort_keys=False, allow_unicode=True).strip()}
---

# {work_dir.resolve().name}

{type_words(cfg)} on {named}, {count_parameters(build_meta(cfg)) / 1e6:.2f} M parameters, trained with Bestiary.

## Scores

On the {run["split"]} data of {data}, after {when}; fractions of 1.

| metric | score |
| --- | --- |
{rows}

## Use

```bash
pip install bestiary
bestiary infer {config.name} {checkpoint.name} PICTURES --out predictions
```

`{config.name}` is the whole config, `{checkpoint.name}` the weights: put both beside this card.

## Training

{recipe}
- PyTorch: {torch.__version__}

## Limits

Written by `bestiary card --export`, which knows the run and nothing else. Say here what the data are, who may use the
weights (`license` above), where they have been tried, and where they should not be used. How the model does on groups
of people, regions or cameras was not measured by this command.
"""


def parts_of(work_dir: Path) -> tuple[Path, Path, dict[str, Any]]:
    """The config, the best or else the last checkpoint, and what `metrics.json` holds.

    Raises:
        InputError: one of them is not there.
    """
    if not work_dir.is_dir():
        raise InputError(f"{work_dir}: no such folder; give the work directory of a run of `bestiary train`")
    configs = sorted(work_dir.glob("*.py"), key=lambda path: path.stat().st_mtime)
    found = checkpoints_of(work_dir)
    scores = work_dir / "metrics.json"
    absent = [
        what
        for what, there in (
            ("config (*.py)", configs),
            ("checkpoint (*.pth)", found),
            ("metrics.json", scores.is_file()),
        )
        if not there
    ]
    if absent:
        raise InputError(
            f"{work_dir}: has no {', no '.join(absent)}: is it the work directory of a run that was evaluated?"
        )
    return configs[-1], found.get("best", found.get("last")), json.loads(scores.read_text(encoding="utf-8"))


def dataset_of(cfg: Config) -> str:
    """The folder of the test data, or the type of the data set."""
    dataset = cfg.test_dataloader.dataset
    while "dataset" in dataset:
        dataset = dataset.dataset
    return str(dataset.get("data_root") or dataset.get("root") or dataset.type)


def type_words(cfg: Config) -> str:
    """The kind of model, by the name of its class: ImageClassifier, MaskRCNN, EncoderDecoder."""
    return str(cfg.model.type).rsplit(".", 1)[-1]


def recipe_lines(cfg: Config) -> dict[str, Any]:
    """The recipe, as far as the config has it in the usual places."""
    if "auto_scale_lr" in cfg:
        return recipe_of(cfg)
    optimizer = cfg.optim_wrapper.optimizer
    length = cfg.train_cfg.get("max_epochs") or cfg.train_cfg.get("max_iters")
    return {"optimizer": optimizer.type, "lr": optimizer.lr, "length": length}
