"""Tells of samples that could not be read and were replaced, while a run goes on; see `inputs.bad_samples`."""

import os
from typing import Any

from mmengine.dist import barrier, is_main_process
from mmengine.hooks import Hook

from ..inputs.bad_samples import Bad, BadSamples, bad_samples_of
from ..registry import HOOKS


@HOOKS.register_module()
class BadSamplesHook(Hook):
    """Logs each bad sample once, as `bad_samples` of the config allows them; the list is the work directory's.

    A run from the beginning starts the list anew, one that resumes goes on with it.
    """

    priority = "LOW"

    def __init__(self) -> None:
        self.samples: BadSamples | None = None
        self.told: list[Bad] = []
        self.size = 0

    def before_train(self, runner: Any) -> None:
        self.samples = bad_samples_of(runner.cfg.get("bad_samples"), runner.work_dir)
        if self.samples is None:
            return
        if is_main_process() and not runner._resume:
            self.samples.path.unlink(missing_ok=True)
        barrier()  # nobody reads a sample before that
        self.told = self.samples.read()

    def after_train_iter(self, runner: Any, *args: Any, **kwargs: Any) -> None:
        self._tell(runner)

    def after_train(self, runner: Any) -> None:
        self._tell(runner)
        if self.told and is_main_process():
            runner.logger.warning(self.words())

    def words(self) -> str:
        """`3 samples could not be read and were replaced (10 allowed): FILE`; empty if there are none."""
        if not self.told or self.samples is None:
            return ""
        return (
            f"{len(self.told)} samples could not be read and were replaced ({self.samples.allowed} allowed): "
            f"{self.samples.path}"
        )

    def _tell(self, runner: Any) -> None:
        if self.samples is None or not is_main_process():
            return
        try:
            size = os.stat(self.samples.path).st_size
        except FileNotFoundError:
            return
        if size == self.size:
            return
        self.size, known = size, {bad.index for bad in self.told}
        for bad in self.samples.read():
            if bad.index not in known:
                self.told.append(bad)
                runner.logger.warning(
                    f"{bad.path}: {bad.why}: replaced by another sample ({len(self.told)} of {self.samples.allowed})"
                )
