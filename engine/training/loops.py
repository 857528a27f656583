"""mmengine's training loops, which can be left and entered after any iteration."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mmengine.dist import get_rank
from mmengine.hooks import EarlyStoppingHook, EMAHook
from mmengine.optim import ReduceOnPlateauParamScheduler
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.runner.base_loop import BaseLoop
from torch import nn
from torch.utils.data import DataLoader, Dataset

from ...errors import InputError
from ...inputs.bad_samples import BadSamples, bad_samples_of
from ...registry import LOOPS
from .batches import ExactBatches, make_exact
from .seeds import seed_iteration
from .stopping import StopRequest, ValidationLeft

EXACT = {"EpochBasedTrainLoop": "bestiary.ExactEpochLoop", "IterBasedTrainLoop": "bestiary.ExactIterLoop"}


class _ExactLoop(BaseLoop):
    """What both loops share; the state that a checkpoint keeps of one is `place`.

    Attributes:
        data_epoch: passes over the data that are done; an epoch-based loop's epoch.
        batch: batches of the present pass that are done.
        validated: the iteration after which the last validation was made.
    """

    batches: ExactBatches
    reader: Iterator[Any] | None = None
    data_epoch = batch = 0
    validated = -1

    @property
    def place(self) -> dict[str, int]:
        """Where the loop is in the data, and whether what is due there has been done."""
        return dict(epoch=self.data_epoch, batch=self.batch, validated=self.validated)

    @place.setter
    def place(self, place: dict[str, int]) -> None:
        self.data_epoch, self.batch, self.validated = place["epoch"], place["batch"], place["validated"]

    def step(self, number: int, data_batch: Any) -> None:
        """An iteration, with the randomness that belongs to it; then the run stops if it was asked to."""
        runner = self.runner
        seed_iteration(runner.seed, self._iter, get_rank())
        runner.call_hook("before_train_iter", batch_idx=number, data_batch=data_batch)
        outputs = runner.model.train_step(data_batch, optim_wrapper=runner.optim_wrapper)
        self.batch += 1
        runner.call_hook("after_train_iter", batch_idx=number, data_batch=data_batch, outputs=outputs)
        self._iter += 1
        if self._request.after_iteration():
            self._stop()

    def validate(self, count: int, last: int) -> None:
        """Validate if it is due after `count` epochs or iterations of `last`, and was not done there before."""
        loop = self.runner.val_loop
        if loop is None or count < self.val_begin or not (count % self.val_interval == 0 or count == last):
            return
        if self.validated == self._iter:
            return
        try:
            loop.run()
        except ValidationLeft as left:
            if left.alone:
                self._request.everywhere()  # the others ask it when they have seen all pictures
            for hook in self.runner.hooks:
                if isinstance(hook, EMAHook):  # it has put the averaged weights into the model, for the validation
                    hook._swap_ema_parameters()
            self._stop()
        self.validated = self._iter

    def run(self) -> nn.Module:
        """Train to the end; signals that ask for an earlier one are heeded after each iteration.

        Raises:
            Stopped: it was asked to stop; the state is saved.
        """
        self._request = self.runner.stop_request = StopRequest()
        with self._request.listening():
            self.runner.call_hook("before_train")
            self._run()
            self.runner.call_hook("after_train")
        return self.runner.model

    def _run(self) -> None:
        raise NotImplementedError(f"{type(self).__name__} does not define _run")

    def _validate_what_was_left_out(self, count: int, last: int) -> None:
        """Where a run is gone on with at a place at which a validation is due, and it was not made before the end."""
        if self._known():
            self.validated = self._iter
        self._decide_current_val_interval()
        self.validate(count, last)

    def _known(self) -> bool:
        """Whether this very iteration has been validated after it was saved, and the run does not depend on the scores.

        If it depends on them (best checkpoints, early stopping, plateaus of the rate), it needs them again: what they
        have changed was not saved.
        """
        runner, scores = self.runner, Path(self.runner.work_dir) / "metrics.json"
        schedulers = runner.param_schedulers or []
        depends = (
            any(isinstance(hook, EarlyStoppingHook) or getattr(hook, "save_best", None) for hook in runner.hooks)
            or isinstance(schedulers, dict)
            or any(isinstance(scheduler, ReduceOnPlateauParamScheduler) for scheduler in schedulers)
        )
        saved = Path(runner._load_from or "")
        if depends or not scores.is_file() or not saved.exists() or scores.stat().st_mtime < saved.stat().st_mtime:
            return False
        content = json.loads(scores.read_text(encoding="utf-8"))
        return content["split"] == "val" and content["iter"] == self._iter

    def _stop(self) -> None:
        self.runner.stop_here(self._epoch, self._iter)


def _bad_samples(runner: Any) -> BadSamples | None:
    return bad_samples_of(runner.cfg.get("bad_samples"), runner.work_dir)


@LOOPS.register_module()
class ExactEpochLoop(_ExactLoop, EpochBasedTrainLoop):
    """mmengine's EpochBasedTrainLoop, resumed at the very batch."""

    def __init__(self, runner: Any, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        super().__init__(runner, dataloader, *args, **kwargs)
        self.batches = make_exact(self.dataloader, runner.seed, _bad_samples(runner))

    def _run(self) -> None:
        if self._iter and not self.batch:
            self._validate_what_was_left_out(self._epoch, self._max_epochs)
        while self._epoch < self._max_epochs and not self.stop_training:
            self.run_epoch()
            self._decide_current_val_interval()
            self.validate(self._epoch, self._max_epochs)

    def run_epoch(self) -> None:
        """What is left of an epoch."""
        self.runner.call_hook("before_train_epoch")
        self.runner.model.train()
        self.batches.start(self._epoch, self.batch)
        self.reader = iter(self.dataloader)
        for number, data_batch in enumerate(self.reader, self.batch):
            self.step(number, data_batch)
        self.batch = 0
        self.runner.call_hook("after_train_epoch")
        self._epoch += 1
        self.data_epoch = self._epoch


@LOOPS.register_module()
class ExactIterLoop(_ExactLoop, IterBasedTrainLoop):
    """mmengine's IterBasedTrainLoop, resumed at the very batch; nothing that was trained on is read again."""

    def __init__(self, runner: Any, dataloader: DataLoader | dict, *args: Any, **kwargs: Any) -> None:
        if isinstance(dataloader, dict):
            different = runner._randomness_cfg.get("diff_rank_seed", False)
            dataloader = runner.build_dataloader(dataloader, seed=runner.seed, diff_rank_seed=different)
        # mmengine would start to read here, before it is known where to go on.
        super().__init__(runner, _Unread(dataloader.dataset), *args, **kwargs)
        self.dataloader, self.dataloader_iterator = dataloader, None
        self.batches = make_exact(dataloader, runner.seed, _bad_samples(runner))

    def _run(self) -> None:
        self.runner.call_hook("before_train_epoch")
        if self._iter:
            self._validate_what_was_left_out(self._iter, self._max_iters)
        stream = self._stream()
        while self._iter < self._max_iters and not self.stop_training:
            if not self.runner.model.training:  # a validation has been made
                self.runner.model.train()
            self.step(self._iter, next(stream))
            self._decide_current_val_interval()
            self.validate(self._iter, self._max_iters)
        self.runner.call_hook("after_train_epoch")

    def _stream(self) -> Iterator[Any]:
        """Batches without an end; the data are gone through again and again, in another order each time."""
        while True:
            self.batches.start(self.data_epoch, self.batch)
            self.reader = iter(self.dataloader)
            yield from self.reader
            if not self.batch:
                raise InputError("train_dataloader: no batch in it; are there fewer pictures than batch_size?")
            self.data_epoch, self.batch = self.data_epoch + 1, 0


class _Unread:
    """A data set that shows itself and has nothing to iterate over."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset

    def __iter__(self) -> Iterator[Any]:
        return iter(())


def use_exact_loop(loop: dict) -> dict:
    """The config of a training loop with mmengine's loops replaced by those of this file; others are left alone."""
    loop = dict(loop)
    if "by_epoch" in loop and "type" not in loop:
        loop["type"] = "EpochBasedTrainLoop" if loop.pop("by_epoch") else "IterBasedTrainLoop"
    loop["type"] = EXACT.get(loop.get("type"), loop.get("type"))
    return loop
