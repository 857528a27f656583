"""What was published of a config's model: read from its docstring, which `tests/configs/` holds to its form."""

import ast
import re
from dataclasses import dataclass, field
from pathlib import Path

from ..configs import find_config

# Name of a metric in the docstrings: how the card and OpenMMLab's metafiles call it.
METRICS = {
    "top-1": "Top 1 Accuracy",
    "box AP": "box AP",
    "mask AP": "mask AP",
    "PQ": "PQ",
    "mIoU": "mIoU",
    "IoU": "IoU",
    "Dice": "Dice",
}
# The first that the config's name contains: data set, task.
DATA = {
    "_in1k": ("ImageNet-1k", "Image Classification"),
    "coco-panoptic": ("COCO", "Panoptic Segmentation"),
    "_coco": ("COCO", "Object Detection"),
    "lvis": ("LVIS v1", "Object Detection"),
    "ade20k": ("ADE20K", "Semantic Segmentation"),
    "cityscapes": ("Cityscapes", "Semantic Segmentation"),
    "isic2017": ("ISIC 2017", "Semantic Segmentation"),
    "isic2018": ("ISIC 2018", "Semantic Segmentation"),
    "synapse": ("Synapse", "Semantic Segmentation"),
}


@dataclass(frozen=True)
class Published:
    """A config and what its source reports of it.

    Attributes:
        config: its name, as `davit/davit-tiny_8xb128_in1k`.
        title: the docstring's first sentence, without the numbers of papers.
        dataset, task: as OpenMMLab's metafiles call them.
        scores: metric -> score in percent, as published; empty where nobody has published one.
        several_scales: mIoU of several scales and flips, where published.
        parameters: in millions, as published. multiply_adds: in thousands of millions, for one picture.
        condition: what else the score hangs on, as "after training on Objects365".
        source: who says so, as "authors' README".
    """

    config: str
    title: str
    dataset: str
    task: str
    scores: dict[str, float] = field(default_factory=dict)
    several_scales: float | None = None
    parameters: float | None = None
    multiply_adds: float | None = None
    condition: str | None = None
    source: str | None = None


def published(config: str) -> Published:
    """What the docstring of a shipped config reports.

    Raises:
        InputError: no such config.
        ValueError: the docstring has a score and no source, or the name no data set.
    """
    text = docstring(find_config(config))
    title = re.sub(r"\s*\((?:after )?arXiv:[\d.]+\),?|,? ?arXiv:[\d.]+", "", text.split(".  ")[0].split(". ")[0])
    dataset, task = data_of(config)
    found = re.search(r"Published: (.*?)\(((?:the|authors'|PolyNeXt)[^)]*)\)\.", text)
    if not found:
        return Published(config, title, dataset, task)
    said, source = found[1], found[2]
    said = re.sub(r"\([^)]*second run\)", "", said)
    scores = {}
    for word, name in METRICS.items():
        if score := re.search(rf"(?<![\w]){re.escape(word)} ([\d.]+\d)", said):
            scores[name] = float(score[1])
    if not scores:
        raise ValueError(f"{config}: its docstring reports no score that is known here: {said!r}")
    condition = re.search(r"(after training on|by weights trained on) [^;,(]+", said)
    several = re.search(r"([\d.]+) of several scales", said)
    return Published(
        config,
        title,
        dataset,
        task if task != "Object Detection" or "box AP" in scores else "Instance Segmentation",
        scores,
        float(several[1]) if several else None,
        _figure(r"([\d.]+) M parameters", said),
        _figure(r"([\d.]+) G multiply-adds", said),
        condition[0].strip() if condition else None,
        source.removeprefix("the "),
    )


def docstring(path: Path) -> str:
    """A config's docstring in one line; the file is parsed, not run."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.split())


def data_of(config: str) -> tuple[str, str]:
    """Data set and task of a config, by its name.

    Raises:
        ValueError: the name has neither.
    """
    for part, names in DATA.items():
        if part in config:
            return names
    raise ValueError(f"{config}: its name has none of {', '.join(DATA)}")


def _figure(pattern: str, text: str) -> float | None:
    found = re.search(pattern, text)
    return float(found[1]) if found else None
