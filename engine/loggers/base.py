"""What all loggers share: they never end a run, and a run that is resumed goes on in the same place."""

import importlib.util
import json
import logging
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from mmengine.config import Config
from mmengine.logging import MessageHub, print_log
from mmengine.visualization.vis_backend import BaseVisBackend
from numpy.typing import NDArray

from ...errors import InputError
from ..saving import write

RECORD = "loggers.json"  # in the work directory: where each logger's run is
NOT_CURVES = ("iter", "epoch", "step")  # places on the axes, in the rows that mmengine gives


class Place(NamedTuple):
    """Iterations and epochs done."""

    iter: int
    epoch: int


class Logger(BaseVisBackend):
    """A visualization backend that writes curves as `train/loss`, `val/coco/bbox_mAP`, `test/...`, all by iteration.

    What fails (a network, a full disk) is told once as a warning; the run goes on without this logger. Only the first
    process writes: mmengine's Visualizer sees to that.

    Args:
        save_dir: mmengine gives it; a logger writes into the work directory itself, which a resumed run shares.
        job: 'train' or 'test'. A training run is noted in `loggers.json` of the work directory and goes on when it is
            resumed; a test is a run of its own.
        checkpoints: whether the last and the best checkpoint are kept there, too, when the run ends.

    Raises:
        InputError: the package is not installed.
    """

    name: str  # as --log has it, and as the extra of this package is called
    package: str

    def __init__(self, save_dir: str, job: str = "train", checkpoints: bool = False) -> None:
        super().__init__(save_dir)
        need_package(self.name, self.package)
        self.job, self.checkpoints = job, checkpoints
        self.evaluations = True  # LoggersHook sets it to False and gives the scores itself, as fractions of 1
        self.by_epoch = True
        self.off = False
        self.opened = False
        self.cfg: Config | None = None
        self.run: Any = None  # what the package has for it
        self.work_dir = Path(save_dir)

    @property
    def experiment(self) -> Any:
        """What the package itself calls a run or writer."""
        self._init_env()
        return self.run

    def _init_env(self) -> None:
        if not self.opened:
            self.opened = True
            self._try("starting", self._begin)

    def _begin(self) -> None:
        self.work_dir.mkdir(parents=True, exist_ok=True)
        before = self._noted().get(self.name) if self.job == "train" and self.resumes else None
        noted = self.open(before)
        if self.job == "train":
            content = self._noted() | {self.name: noted}
            write(self.work_dir / RECORD, (json.dumps(content, indent=1) + "\n").encode())

    @property
    def resumes(self) -> bool:
        return self.cfg is not None and bool(self.cfg.get("resume"))

    def _noted(self) -> dict[str, Any]:
        path = self.work_dir / RECORD
        try:
            return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else {}
        except ValueError:  # damaged: the run begins anew there, which the logger's own pages show
            return {}

    def add_config(self, config: Config, **kwargs: Any) -> None:
        """Begin, or go on with, the run of this config, and keep the config there."""
        self.cfg = config
        self.work_dir = Path(config.get("work_dir") or self._save_dir)
        loop = config.get("train_cfg") or {}
        self.by_epoch = bool(loop.get("by_epoch", "Iter" not in str(loop.get("type", ""))))
        self._init_env()
        self._try("keeping the config", self.keep_config, config)

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """A value under its own name."""
        self._init_env()
        self._try(f"writing {name}", self.scalars, {name: float(value)}, Place(step, self._now().epoch))

    def add_scalars(self, scalar_dict: dict, step: int = 0, file_path: str | None = None, **kwargs: Any) -> None:
        """mmengine's row of training (it has `iter`), or of an evaluation (it has not)."""
        if "iter" in scalar_dict:
            values = {f"train/{key}": value for key, value in _numbers(scalar_dict).items()}
            now = Place(int(scalar_dict["iter"]), int(scalar_dict.get("epoch", self._now().epoch)))
        elif self.evaluations:
            values = {f"val/{key}": value for key, value in _numbers(scalar_dict).items()}
            now = self._now()
        else:
            return
        self._init_env()
        self._try("writing curves", self.scalars, values, now)

    def add_scores(self, split: str, scores: Mapping[str, float | None], place: Place) -> None:
        """Scores of an evaluation, `split` 'val' or 'test'; those that are None are left out."""
        values = {f"{split}/{key}": value for key, value in scores.items() if value is not None}
        self._init_env()
        self._try("writing scores", self.scalars, values, place)

    def add_image(self, name: str, image: NDArray[np.uint8], step: int = 0, **kwargs: Any) -> None:
        """A picture, (H, W, 3) RGB."""
        self.add_pictures(name, {name: image}, Place(step, self._now().epoch))

    def add_pictures(self, what: str, pictures: Mapping[str, NDArray[np.uint8]], place: Place) -> None:
        """Pictures under one heading, as 'val/predictions': name of each: (H, W, 3) RGB."""
        self._init_env()
        self._try("keeping pictures", self.pictures, what, pictures, place)

    def add_checkpoint(self, path: Path, kinds: list[str]) -> None:
        """A checkpoint file, `kinds` of 'best' and 'last'."""
        self._init_env()
        self._try(f"keeping {path.name}", self.checkpoint, path, kinds)

    def close(self) -> None:
        """End the run, in good order."""
        if self.opened:
            self._try("closing", self.finish)
            self.opened = False

    def words(self) -> str:
        """Where the run is and how to look at it; that it is not where it failed."""
        return f"{self.name}: gave up, see the warning above" if self.off else f"{self.name}: {self.where()}"

    def _try(self, what: str, function: Callable, *args: Any) -> None:
        if self.off:
            return
        try:
            function(*args)
        except InputError:
            raise
        except Exception as error:  # whatever a logger runs into: days of training are worth more
            self.off = True
            self.say(
                f"{what} failed ({type(error).__name__}: {first_line(error)}); the run goes on without {self.name}"
            )

    def say(self, text: str) -> None:
        """A warning, which reaches the terminal."""
        print_log(f"{self.name}: {text}", "current", logging.WARNING)

    @staticmethod
    def _now() -> Place:
        hub = MessageHub.get_current_instance()  # a Runner counts there, from 0, what it is at
        counts = [hub.get_info(key, -1) for key in ("iter", "epoch")]
        return Place(*(int(count) + 1 for count in counts))

    @abstractmethod
    def open(self, before: dict[str, Any] | None) -> dict[str, Any]:
        """Begin, or go on with the run that `before` notes; returns what is to be noted."""

    @abstractmethod
    def keep_config(self, config: Config) -> None:
        """The whole config."""

    @abstractmethod
    def scalars(self, values: Mapping[str, float], place: Place) -> None:
        """Values of one place."""

    @abstractmethod
    def pictures(self, what: str, pictures: Mapping[str, NDArray[np.uint8]], place: Place) -> None:
        """Pictures of one place."""

    @abstractmethod
    def checkpoint(self, path: Path, kinds: list[str]) -> None:
        """A checkpoint file."""

    @abstractmethod
    def finish(self) -> None:
        """End the run."""

    @abstractmethod
    def where(self) -> str:
        """In words for a person."""


def _numbers(row: Mapping[str, Any]) -> dict[str, float]:
    """The curves of a row; mmengine's rows of evaluations also have times and tables."""
    pairs = {key: value for key, value in row.items() if key not in NOT_CURVES}
    return {key: float(value) for key, value in pairs.items() if hasattr(value, "__float__")}


def need_package(name: str, package: str) -> None:
    """Ask that the package of a logger is there.

    Raises:
        InputError: it is not; says what to install.
    """
    if importlib.util.find_spec(package) is None:
        raise InputError(f"{name}: the package {package} is not installed: pip install 'bestiary[{name}]'")


def first_line(error: BaseException) -> str:
    """Of its text."""
    return next(iter(str(error).strip().splitlines()), "no reason given")


def plain(value: Any) -> Any:
    """A part of a config as JSON has it: what is neither a number, text nor a container becomes text."""
    if isinstance(value, Mapping):
        return {str(key): plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple | set):
        return [plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
