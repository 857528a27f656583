"""Names, numbers and model of a run in words, for the page."""

import math
import re
import time
from typing import Any

from .runs import Run

LEADING = ("bbox_mAP", "segm_mAP", "mIoU", "top1", "mAP", "mDice", "aAcc", "mean_class", "CF1", "top5")
MEANING = {  # of the last part of a score's name
    "bbox_mAP": "box AP",
    "segm_mAP": "mask AP",
    "boundary_mAP": "boundary AP",
    "keypoints_mAP": "keypoint AP",
    "mIoU": "mean IoU",
    "top1": "top-1 accuracy",
    "top5": "top-5 accuracy",
    "mAP": "mean AP",
    "mDice": "mean Dice",
    "aAcc": "pixel accuracy",
    "mAcc": "mean class accuracy",
    "mean_class": "mean class accuracy",
    "ece": "expected calibration error",
}


def leading(scores: dict[str, float | None], count: int = 2) -> list[str]:
    """The names of the scores that a person asks for first, those that are there."""
    by_part = {name.rsplit("/", 1)[-1]: name for name in reversed(list(scores))}
    found = [by_part[part] for part in LEADING if part in by_part]
    return (found or list(scores))[:count]


def meaning(name: str) -> str:
    """A score's name as a person says it, the name itself where it has no other."""
    return MEANING.get(name.rsplit("/", 1)[-1], name)


def score(value: float | None) -> str:
    """0.8123, or a dash."""
    return "–" if value is None or not math.isfinite(value) else f"{value:.4f}"


def size(count: float, unit: str = "") -> str:
    """11.4 M of 11 400 000."""
    for power, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= power:
            return f"{count / power:.3g} {letter}{unit}"
    return f"{count:.3g}{' ' + unit if unit else ''}"


def gibibytes(count: float) -> str:
    """Bytes as MiB or GiB."""
    return f"{count / 2**30:.2f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


def date(seconds: float) -> str:
    """2026-11-28 16:20, in this machine's time zone."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def model_of(config: str) -> str:
    """`MaskRCNN, bestiary.PoolFormer` from the text of a config, empty where it does not say. Nothing is run."""
    block = re.search(r"^model = dict\((.*?)^\s*\)$|^model = dict\((.*)", config, re.M | re.S)
    if block is None:
        return ""
    text = block[0]
    own = re.search(r"\n    type='([\w.]+)'", text)
    backbone = re.search(r"backbone=dict\((.*?)\n    \w+=|backbone=dict\((.*)", text, re.S)
    kind = re.search(r"\n        type='([\w.]+)'", backbone[0]) if backbone else None
    arch = re.search(r"\n        arch='([\w.]+)'", backbone[0]) if backbone else None
    parts = [own[1] if own else "", (kind[1] if kind else "") + (f" {arch[1]}" if arch else "")]
    return ", ".join(part for part in parts if part)


def pace(run: Run) -> tuple[list[float], list[float]]:
    """Iterations, and pictures a second as they were trained then; nothing where the batch is not known."""
    steps, seconds = run.curve("time")
    batch = run.start.get("batch_size") or 0
    pairs = [(x, batch / y) for x, y in zip(steps, seconds, strict=True) if y > 0 and batch]
    return [x for x, _ in pairs], [y for _, y in pairs]


def waiting(run: Run) -> float | None:
    """The share of an iteration's time spent waiting for data, over the run."""
    _, whole = run.curve("time")
    _, data = run.curve("data_time")
    return sum(data) / sum(whole) if whole and len(whole) == len(data) and sum(whole) > 0 else None


def memory_of(run: Run) -> dict[str, float]:
    """Bytes at the most, `process` and `gpu`, as far as they were noted."""
    notes: list[dict[str, Any]] = [entry.get("memory") or {} for entry in (*run.evaluations, run.end)]
    found = {key: max(note.get(key, 0) for note in notes) for key in ("process", "gpu")}
    _, logged = run.curve("memory")  # mmengine's, MiB of the GPU
    found["gpu"] = max([found["gpu"], *(value * 2**20 for value in logged)])
    return {key: value for key, value in found.items() if value}
