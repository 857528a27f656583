"""Scores of a run: fractions of 1, in a line, in a table and in metrics.json."""

import json
import math
import time
from pathlib import Path
from typing import Any

from mmengine.dist import master_only
from mmengine.evaluator import Evaluator
from mmengine.hooks import Hook
from rich.console import Console
from rich.table import Table

from ..files import write_text
from ..registry import HOOKS
from .training.resuming import BEST

# What mmseg's IoUMetric gives in percent.
PERCENT = {"aAcc", "mIoU", "mAcc", "mDice", "mFscore", "mPrecision", "mRecall"}


def fractions(metrics: dict[str, Any], evaluator: Evaluator | None = None) -> dict[str, float | None]:
    """Scores as fractions of 1; None where there is none (NaN, and COCO's -1: no object of that size).

    mmseg's IoUMetric counts in percent, all others of mmdet, mmseg and this package in fractions.
    """
    metric_names = {cls.__name__ for metric in getattr(evaluator, "metrics", []) for cls in type(metric).__mro__}
    percent = PERCENT if "IoUMetric" in metric_names else set()
    scores: dict[str, float | None] = {}
    for name, value in metrics.items():
        if isinstance(value, bool) or not hasattr(value, "__float__"):
            continue
        number = float(value)
        if name.rsplit("/", 1)[-1] in percent:
            number = round(number / 100, 6)
        scores[name] = None if math.isnan(number) or number == -1 else number
    return scores


def metrics_line(metrics: dict[str, Any], evaluator: Evaluator | None = None) -> str:
    """`bbox_mAP 0.812  segm_mAP 0.790`: the first of each metric's names, without those for one size or threshold."""
    scores = fractions(metrics, evaluator)
    leading = {name: value for name, value in scores.items() if not name.endswith(("_50", "_75", "_s", "_m", "_l"))}
    return "  ".join(f"{name} {_number(value)}" for name, value in leading.items()) or "no metric"


def print_table(scores: dict[str, float | None], title: str, console: Console | None = None) -> None:
    """A row a score."""
    console = console or Console()
    table = Table("metric", "value")
    for name, value in scores.items():
        table.add_row(name, _number(value))
    console.print(f"{title}:", highlight=False, markup=False, soft_wrap=True)
    console.print(table)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


@HOOKS.register_module()
class ResultsHook(Hook):
    """Keeps the scores of the last evaluation and writes them to `metrics.json` in the work directory.

    The file has `metrics` (fractions of 1), `split` ('val' or 'test'), `epoch`, `iter`, `checkpoint` (what was
    evaluated if it was a file) and `seconds` since the run began. It is written after every evaluation.
    """

    priority = "LOWEST"  # after CheckpointHook has saved and named the best

    def __init__(self) -> None:
        self.scores: dict[str, float | None] = {}
        self.began = time.monotonic()

    def before_run(self, runner) -> None:
        self.began = time.monotonic()

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        self._keep(runner, "val", metrics, runner.val_evaluator)

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        self._keep(runner, "test", metrics, runner.test_evaluator)

    @master_only
    def _keep(self, runner, split: str, metrics: dict | None, evaluator: Evaluator) -> None:
        self.scores = fractions(metrics or {}, evaluator)
        trained = runner._train_loop is not None and not isinstance(runner._train_loop, dict)
        content = {
            "metrics": self.scores,
            "split": split,
            "epoch": runner.epoch if trained else None,
            "iter": runner.iter if trained else None,
            "checkpoint": None if trained else runner._load_from,
            "seconds": round(time.monotonic() - self.began, 1),
        }
        write_text(Path(runner.work_dir) / "metrics.json", json.dumps(content, indent=2) + "\n")


def checkpoints_of(work_dir: str | Path) -> dict[str, Path]:
    """What training left: `last` and `best`, those that are there."""
    folder, found = Path(work_dir), {}
    if (pointer := folder / "last_checkpoint").is_file():
        last = Path(pointer.read_text(encoding="utf-8").strip())
        # The pointer holds the path as it was when training ran; the folder may have moved.
        found["last"] = last if last.exists() else folder / last.name
    if best := sorted(folder.glob(f"{BEST}*.pth"), key=lambda path: path.stat().st_mtime):
        found["best"] = best[-1]
    return {kind: path for kind, path in found.items() if path.exists()}
