"""A test loop that saves predictions as it goes, and leaves out the batches that an earlier run has done."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from mmengine.dist import barrier, get_rank
from mmengine.runner import TestLoop
from mmengine.runner.amp import autocast
from mmengine.structures import BaseDataElement

from ..registry import LOOPS
from .saving import SavedPredictions

BATCHES = 20  # in a piece


@LOOPS.register_module()
class SavingTestLoop(TestLoop):
    """mmengine's TestLoop with predictions in a folder: see `SavedPredictions`.

    A batch all of whose pictures are there is not run through the model again; one of which a part is missing is run as
    a whole, so that pictures are padded with the same neighbours and the score is that of a run without a break. Ground
    truth comes from the data pipeline either way.

    Args:
        folder: of the predictions.
        source: what they are of.
        resume: go on with what the folder has.
        batches: in a piece, at most lost by a kill; BATCHES if None.
    """

    def __init__(
        self,
        *args: Any,
        folder: str,
        source: dict[str, Any],
        resume: bool = False,
        batches: int | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        dataset = self.dataloader.dataset
        prefix = getattr(dataset, "data_prefix", None) or {}
        root = str(prefix.get("img_path") or "") if isinstance(prefix, dict) else ""
        if get_rank() == 0:
            self.saved = SavedPredictions(folder, dict(source), resume, root)
        barrier()
        if get_rank() != 0:
            self.saved = SavedPredictions(folder, dict(source), True, root)
        self.batches, self.skipped, self.done, self.began = batches or BATCHES, 0, 0, time.time_ns()

    def run(self) -> dict:
        """Test; the files of results are complete when it returns."""
        metrics = super().run()
        self.saved.flush(self._piece())
        barrier()
        if get_rank() == 0:
            paths = self.saved.finish(getattr(self.dataloader.dataset, "cat_ids", None))
            self.runner.logger.info(f"predictions: {', '.join(map(str, paths))}; {self.skipped} batches were there")
        return metrics

    @torch.no_grad()
    def run_iter(self, idx: int, data_batch: dict[str, Any]) -> None:
        """Test a batch, or take what is there."""
        self.runner.call_hook("before_test_iter", batch_idx=idx, data_batch=data_batch)
        samples = pictures(data_batch)
        if all(self.saved.has(sample) for sample in samples):
            outputs = [self.saved.restore(sample) for sample in samples]
            self.skipped += 1
        else:
            with autocast(enabled=self.fp16):
                outputs = self.runner.model.test_step(data_batch)
            for sample in outputs:
                self.saved.add(sample)
            self.done += 1
            if self.done % self.batches == 0:
                self.saved.flush(self._piece())
        self.evaluator.process(data_samples=outputs, data_batch=data_batch)
        self.runner.call_hook("after_test_iter", batch_idx=idx, data_batch=data_batch, outputs=outputs)

    def _piece(self) -> str:
        # The time keeps the pieces of an earlier run, which may have had more processes.
        return f"{self.began}_rank{get_rank()}_{self.done:06d}"


def pictures(data_batch: dict[str, Any]) -> Sequence[BaseDataElement]:
    """The samples of a batch; where there are several views of each picture, the first."""
    samples = data_batch["data_samples"]
    return samples[0] if isinstance(samples[0], list | tuple) else samples
