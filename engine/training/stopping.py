"""Signals that ask a run to stop: it saves where it is and ends with a status of its own."""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from types import FrameType

import torch
import torch.distributed as dist
from mmengine.hooks import Hook
from mmengine.runner import Runner

from ...registry import HOOKS

STATUS = 75  # EX_TEMPFAIL of sysexits.h: nothing is wrong, go on with it later
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(SystemExit):
    """A run has stopped because it was asked to, and its state is on disk. Its status is 75.

    Args:
        checkpoint: what to go on from.
    """

    def __init__(self, checkpoint: str) -> None:
        super().__init__(STATUS)
        self.checkpoint = checkpoint


class ValidationLeft(Exception):
    """A validation was given up, because the run is to stop.

    Args:
        alone: this process found out by itself; the others still have pictures to look at.
    """

    def __init__(self, alone: bool) -> None:
        super().__init__("the run is to stop")
        self.alone = alone


class StopRequest:
    """Whether a signal has asked for an end, and that all processes learn of it at the same iteration.

    The question goes round without waiting: what is asked at the end of one iteration is answered at the end of the
    next. SIGTERM usually reaches every process of a job; one is enough.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.name = "a signal"
        several = dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
        # A group of its own on CPUs: it neither waits for a GPU nor stands in line with the gradients.
        self._group = dist.new_group(backend="gloo") if several else None
        self._asked: tuple[torch.Tensor, dist.Work] | None = None

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and SIGINT while the block runs; in threads other than the main one nothing is changed."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:  # asked twice: at once, as if nobody had listened
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.signal = signal.Signals(number)
        self.name = self.signal.name
        print(
            f"{self.name}: the run saves at the end of this iteration and stops; once more stops it at once",
            file=sys.stderr,
            flush=True,
        )

    def after_iteration(self) -> bool:
        """Whether all processes are to stop now; each has to call it once an iteration."""
        if self._group is None:
            return self.signal is not None
        answer = False
        if self._asked is not None:
            flag, work = self._asked
            work.wait()
            answer = bool(flag.item())
        flag = torch.tensor([int(self.signal is not None)])
        self._asked = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, self._group, async_op=True)
        return answer

    def everywhere(self) -> bool:
        """Whether any process was asked to stop; all have to call it, and wait for one another."""
        if self._group is None:
            return self.signal is not None
        flag = torch.tensor([int(self.signal is not None)])
        dist.all_reduce(flag, dist.ReduceOp.MAX, self._group)
        return bool(flag.item())


@HOOKS.register_module()
class StopHook(Hook):
    """Leaves a validation that is under way when the run was asked to stop; it is made when the run goes on."""

    def after_val_iter(self, runner: Runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        """Ask this process alone: others may be at another picture.

        Raises:
            ValidationLeft: it was asked to stop.
        """
        request = getattr(runner, "stop_request", None)
        if request is not None and request.signal is not None:
            raise ValidationLeft(alone=True)
