"""Keeps what a report shows and training throws away, and writes the page when training ends."""

import functools
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from mmengine.dist import get_dist_info
from mmengine.hooks import Hook
from mmengine.structures import BaseDataElement

from ...registry import HOOKS
from ..results import fractions
from .collect import Collector, collector_for
from .environment import describe, identity, memory
from .evidence import save_part
from .history import note

PAGE = "report.html"  # in the work directory


def _harmless(method: Callable) -> Callable:
    """A report is worth no run: what fails is said in one line, and the hook keeps still from then on."""

    @functools.wraps(method)
    def guarded(self: "ReportHook", runner: Any, *args: Any, **kwargs: Any) -> None:
        if self.failed:
            return
        try:
            method(self, runner, *args, **kwargs)
        except Exception as error:  # whatever it is, the run goes on
            self.failed = f"{type(error).__name__}: {' '.join(str(error).split())}"
            runner.logger.warning(f"no report page of this run: {self.failed}")

    return guarded


@HOOKS.register_module()
class ReportHook(Hook):
    """Evidence of the last evaluation, a history of the run, and `report.html` in the work directory at its end.

    Each process takes what it needs from what the model says of each validation picture, and writes it as its last
    picture is done: the evaluation that follows waits for all of them, so that the first process finds all parts. The
    first process alone writes the page. `report=False` in a config leaves the hook out. A test run is let alone.

    Args:
        page: write the page at the end; without, `bestiary report` makes it from what was kept.
    """

    priority = "LOWEST"  # after the last checkpoint and the scores

    def __init__(self, page: bool = True) -> None:
        self.page, self.failed = page, ""
        self.written: Path | None = None
        self.seconds = 0.0  # spent on evidence and page
        self._began = 0.0
        self._collector: Collector | None = None
        self._seen = self._counted = 0
        self._places: dict[str, int] | None = None

    @_harmless
    def before_train(self, runner: Any) -> None:
        """Note the start."""
        self._began = time.monotonic()
        rank, world = get_dist_info()
        if rank:
            return
        loader, cfg = runner.train_dataloader, runner.cfg
        batch = getattr(loader, "batch_size", None) or getattr(getattr(loader, "batch_sampler", None), "batch_size", 0)
        parameters = list(runner.model.parameters())
        note(
            runner.work_dir,
            "start",
            time=time.time(),
            timestamp=runner.timestamp,
            iter=runner.iter,
            max_iters=runner.max_iters,
            max_epochs=runner.max_epochs,
            batch_size=int(batch or 0) * world,
            world=world,
            threads=torch.get_num_threads(),
            train_pictures=len(loader.dataset) if hasattr(loader.dataset, "__len__") else None,
            parameters=sum(parameter.numel() for parameter in parameters),
            trainable=sum(parameter.numel() for parameter in parameters if parameter.requires_grad),
            device=str(next(iter(parameters)).device) if parameters else None,
            config=Path(cfg.filename).name if cfg.filename else None,
            process=identity(),
            **describe(),
        )

    @_harmless
    def before_val_epoch(self, runner: Any) -> None:
        """Evidence of the evaluation before is of no use any more."""
        self._collector, self._seen, self._counted = None, 0, 0

    @_harmless
    def after_val_iter(
        self, runner: Any, batch_idx: int, data_batch: Any = None, outputs: list[BaseDataElement] | None = None
    ) -> None:
        """Take from each picture; write where it was the last."""
        began = time.monotonic()
        rank, world = get_dist_info()
        loader = runner.val_dataloader
        dataset = loader.dataset
        total = len(dataset)
        meta = getattr(dataset, "metainfo", None) or {}
        classes = [str(name) for name in meta.get("classes") or ()]
        for sample in outputs or ():
            place = self._seen * world + rank
            self._seen += 1
            if place >= total:  # repeated by the sampler, so that all processes have as many
                continue
            if self._collector is None and self._seen == 1:
                self._collector = collector_for(sample, len(classes), -(-total // world))
            if self._collector is not None and (self._seen - 1) % self._collector.every == 0:
                self._collector.add(sample, functools.partial(self._info, dataset, place, sample))
                self._counted += 1
        if self._collector is not None and batch_idx + 1 == len(loader):
            facts = {
                "classes": classes,
                "palette": _plain(meta.get("palette")),
                "pictures": self._counted,
                "total": total,
                "iter": runner.iter,
                "epoch": runner.epoch,
                "world": world,
                "folder": os.getcwd(),
            }
            save_part(runner.work_dir, self._collector, facts, rank)
            self._collector = None
        self.seconds += time.monotonic() - began

    @_harmless
    def after_val_epoch(self, runner: Any, metrics: dict[str, float] | None = None) -> None:
        """Note the scores."""
        if get_dist_info()[0] or self._began == 0:
            return
        evaluator = runner.val_evaluator
        tables = [table for metric in evaluator.metrics for table in getattr(metric, "tables", ())]
        note(
            runner.work_dir,
            "evaluation",
            time=time.time(),
            iter=runner.iter,
            epoch=runner.epoch,
            scores=fractions(metrics or {}, evaluator),
            seconds=round(time.monotonic() - self._began, 1),
            memory=memory(),
            tables=[_columns(table) for table in tables],
        )

    @_harmless
    def after_train(self, runner: Any) -> None:
        """Note the end, write the page."""
        if get_dist_info()[0]:
            return
        seconds = round(time.monotonic() - self._began, 1)
        note(runner.work_dir, "end", time=time.time(), iter=runner.iter, seconds=seconds, memory=memory())
        if not self.page:
            return
        began = time.monotonic()
        from .page import write_report  # with all that draws; a run that is killed never needs it

        self.written = write_report(runner.work_dir, Path(runner.work_dir) / PAGE)
        self.seconds += time.monotonic() - began
        runner.logger.info(f"report: {self.written}; evidence and page took {self.seconds:.2f} s")

    def _info(self, dataset: Any, place: int, sample: BaseDataElement) -> Mapping[str, Any]:
        """What the data set knows of a sample: where its sampler goes in order it is entry `place`."""
        info = dataset.get_data_info(place)
        if str(info.get("img_path")) == str(sample.get("img_path")):
            return info
        if self._places is None:
            paths = (str(dataset.get_data_info(index).get("img_path")) for index in range(len(dataset)))
            self._places = {path: index for index, path in enumerate(paths)}
        return dataset.get_data_info(self._places[str(sample.get("img_path"))])


def _columns(table: Any) -> dict[str, Any]:
    """A rich table as JSON: title, names of the columns, rows of texts."""
    columns = [list(column.cells) for column in table.columns]
    return {
        "title": str(table.title or ""),
        "columns": [str(column.header) for column in table.columns],
        "rows": [[str(cell) for cell in row] for row in zip(*columns, strict=True)],
    }


def _plain(palette: Any) -> list[list[int]] | None:
    """Colours as lists; None where there are none, or a name such as 'random'."""
    if not palette or isinstance(palette, str):
        return None
    return [[int(part) for part in colour] for colour in palette]
