"""Gives the loggers what mmengine's own hook does not: scores as fractions, drawn predictions, checkpoints."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.visualization import Visualizer

from ...errors import InputError
from ...registry import HOOKS
from ..drawing import colours_for, draw, read_picture
from ..predictions import prediction_of
from ..results import checkpoints_of, fractions
from .base import Logger, Place


def loggers_in(visualizer: Visualizer) -> list[Logger]:
    """Those of ours among its backends."""
    return [backend for backend in visualizer._vis_backends.values() if isinstance(backend, Logger)]


@HOOKS.register_module()
class LoggersHook(Hook):
    """Scores, pictures and checkpoints for the loggers of a run; nothing where it has none of ours.

    Args:
        pictures: of each evaluation, drawn with what is predicted on them; the first ones, always the same.
        score_thr: objects below are not drawn.
        side: of a drawn picture, in pixels, the longer one.
    """

    priority = "NORMAL"  # before LoggerHook, which closes the backends when the run ends

    def __init__(self, pictures: int = 8, score_thr: float = 0.3, side: int = 480) -> None:
        self.wanted, self.score_thr, self.side = pictures, score_thr, side
        self.loggers: list[Logger] = []
        self.drawn: dict[str, Any] = {}

    def before_run(self, runner) -> None:
        self.loggers = loggers_in(runner.visualizer) if is_main_process() else []
        for logger in self.loggers:
            logger.evaluations = False

    def before_val_epoch(self, runner) -> None:
        self.drawn = {}

    def before_test_epoch(self, runner) -> None:
        self.drawn = {}

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._draw(runner.val_dataloader.dataset, outputs or ())

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs: Sequence | None = None) -> None:
        self._draw(runner.test_dataloader.dataset, outputs or ())

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        self._evaluated("val", metrics, runner.val_evaluator, Place(runner.iter, runner.epoch))

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        self._evaluated("test", metrics, runner.test_evaluator, Place(0, 0))

    def after_train(self, runner) -> None:
        wanting = [logger for logger in self.loggers if logger.checkpoints]
        if not wanting:
            return
        kinds: dict[Path, list[str]] = {}
        for kind, path in checkpoints_of(runner.work_dir).items():
            kinds.setdefault(path.resolve(), []).append(kind)
        for path, names in kinds.items():
            for logger in wanting:
                logger.add_checkpoint(path, names)

    def _draw(self, dataset: Any, samples: Sequence[Any]) -> None:
        if not self.loggers or len(self.drawn) >= self.wanted:
            return
        meta = getattr(dataset, "metainfo", {})
        classes = list(meta.get("classes") or ())
        colours = colours_for(max(len(classes), 1), meta.get("palette"))
        for sample in samples[: self.wanted - len(self.drawn)]:
            path = Path(str(sample.get("img_path")))
            try:
                picture, prediction = read_picture(path), prediction_of(sample, self.score_thr)
            except InputError:  # a part of an archive, a kind of prediction that cannot be drawn: the scores go on
                self.wanted = len(self.drawn)
                return
            name = path.name if path.name not in self.drawn else f"{path.parent.name}/{path.name}"
            self.drawn[name] = draw(picture, prediction, classes, colours, self.side)

    def _evaluated(self, split: str, metrics: dict | None, evaluator: Any, place: Place) -> None:
        for logger in self.loggers:
            logger.add_scores(split, fractions(metrics or {}, evaluator), place)
            if self.drawn:
                logger.add_pictures(f"{split}/predictions", self.drawn, place)
