"""TensorBoard's event files."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from mmengine.config import Config
from numpy.typing import NDArray

from ...errors import InputError
from ...registry import VISBACKENDS
from .base import Logger, Place


@VISBACKENDS.register_module()
class TensorboardLogger(Logger):
    """Curves, the config as text and pictures in `WORK_DIR/tensorboard/<time>/`; a resumed run writes there again.

    What an interrupted run wrote beyond the checkpoint that it resumes from is drawn once: the new file says from which
    iteration on it replaces the older ones.

    Raises:
        InputError: checkpoints are asked for, which TensorBoard has no place for.
    """

    name = package = "tensorboard"

    def __init__(self, save_dir: str, **others: Any) -> None:
        super().__init__(save_dir, **others)
        if self.checkpoints:
            raise InputError("tensorboard: it keeps no checkpoints; leave checkpoints=True to wandb or mlflow")
        self.text = ""

    def open(self, before: dict[str, Any] | None) -> dict[str, Any]:
        name = (before or {}).get("folder") or f"{time.strftime('%Y%m%d_%H%M%S')}{'_test' * (self.job == 'test')}"
        self.folder = self.work_dir / "tensorboard" / name  # relative: a work directory may move
        self.goes_on = before is not None
        return {"folder": name}

    def _writer(self, step: int) -> Any:
        """A SummaryWriter, made with the first iteration that is written."""
        if self.run is None:
            from torch.utils.tensorboard import SummaryWriter

            self.run = SummaryWriter(str(self.folder), purge_step=step if self.goes_on else None)
            self.run.add_text("config", self.text, step)
        return self.run

    def keep_config(self, config: Config) -> None:
        indented = "\n".join(f"    {line}" for line in config.pretty_text.splitlines())
        self.text = indented  # Markdown's way to show code

    def scalars(self, values: Mapping[str, float], place: Place) -> None:
        writer = self._writer(place.iter)
        for name, value in {**values, "epoch": place.epoch}.items():
            writer.add_scalar(name, value, place.iter)
        writer.flush()  # a killed run keeps its curves

    def pictures(self, what: str, pictures: Mapping[str, NDArray[np.uint8]], place: Place) -> None:
        for name, picture in pictures.items():
            tag = what if name == what else f"{what}/{name}"
            self._writer(place.iter).add_image(tag, picture, place.iter, dataformats="HWC")
        self.run.flush()

    def checkpoint(self, path: Path, kinds: list[str]) -> None:
        raise NotImplementedError  # __init__ refuses to be asked

    def finish(self) -> None:
        if self.run is not None:
            self.run.close()

    def where(self) -> str:
        return f"{self.folder}; to look at it: tensorboard --logdir {self.folder.parent}"
