"""What a person sees while a run goes on: what, percent, pictures a second, time left, loss."""

import math
import sys
import time
from typing import Any, TextIO

from mmengine.dist import get_world_size, is_main_process
from mmengine.hooks import Hook
from mmengine.runner import EpochBasedTrainLoop
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn
from torch import Tensor

from ..registry import HOOKS
from .results import metrics_line

SMOOTHING = 0.1  # weight of the newest iteration in the time per iteration


def clock(seconds: float) -> str:
    """5 s, 2:31 min, 1:04 h, 2 d 3 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02d} min"
    if whole < 86400:
        return f"{whole // 3600}:{whole % 3600 // 60:02d} h"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


class PlainDisplay:
    """Lines for a log file or a pipe: one at each tenth of the whole, and one where it has been quiet for long.

    Long is 10 s at first, and a twentieth of the time gone by later, 60 s at most.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.began = self.last = time.monotonic()
        self.tenth = 0

    def start(self) -> None:
        """Nothing to prepare."""

    def due(self, what: str, done: int, total: int) -> bool:
        """Whether a line is wanted now; evaluations are silent unless they are long."""
        now = time.monotonic()
        tenth = 10 * done // total if total else 0
        if what in ("train", "infer") and tenth > self.tenth:
            self.tenth = tenth
            return True
        return now - self.last >= min(60.0, max(10.0, (now - self.began) / 20))

    def update(self, what: str, done: int, total: int, text: str) -> None:
        self.say(f"{what:5s} {text}")

    def forget(self, what: str) -> None:
        """Lines that were printed stay."""

    def say(self, line: str) -> None:
        self.last = time.monotonic()
        print(line, file=self.stream, flush=True)

    def stop(self) -> None:
        """Nothing to close."""


class RichDisplay:
    """A bar for each running task on a terminal; what is said scrolls above them."""

    def __init__(self, console: Console) -> None:
        columns = TextColumn("{task.description:5s}"), BarColumn(bar_width=24), TextColumn("{task.fields[text]}")
        self.progress = Progress(*columns, console=console)
        self.tasks: dict[str, TaskID] = {}
        self.last = 0.0

    def start(self) -> None:
        self.progress.start()

    def due(self, what: str, done: int, total: int) -> bool:
        """Four times a second: what is shown has to be fetched from the GPU."""
        return time.monotonic() - self.last >= 0.25 or done == total

    def update(self, what: str, done: int, total: int, text: str) -> None:
        self.last = time.monotonic()
        if what not in self.tasks:
            self.tasks[what] = self.progress.add_task(what, total=total, text=text)
        self.progress.update(self.tasks[what], completed=done, total=total, text=text)

    def forget(self, what: str) -> None:
        if what in self.tasks:
            self.progress.remove_task(self.tasks.pop(what))

    def say(self, line: str) -> None:
        self.progress.console.print(line, highlight=False, markup=False)

    def stop(self) -> None:
        self.progress.stop()


class Pace:
    """Seconds and pictures an iteration, smoothed; time spent elsewhere (evaluation, saving) does not count."""

    def __init__(self) -> None:
        self.seconds = self.pictures = 0.0
        self.ticks = 0
        self.mark = time.monotonic()

    def resume(self) -> None:
        self.mark = time.monotonic()

    def tick(self, pictures: int) -> None:
        now = time.monotonic()
        # A plain mean first, which forgets the past slowly from the tenth iteration on.
        self.ticks += 1
        weight = max(SMOOTHING, 1 / self.ticks)
        self.seconds += weight * (now - self.mark - self.seconds)
        self.pictures += weight * (pictures - self.pictures)
        self.mark = now

    def words(self, done: int, total: int, left: float) -> str:
        rate = self.pictures * get_world_size() / max(self.seconds, 1e-9)
        return f"{100 * done // max(total, 1):3d}%  {rate:.1f} pictures/s  {clock(left)} left"


def pictures_in(batch: Any) -> int:
    """How many pictures a batch holds: the length of its inputs, 1 if it does not tell."""
    inputs = batch.get("inputs") if isinstance(batch, dict) else batch[0] if isinstance(batch, list | tuple) else batch
    return len(inputs) if hasattr(inputs, "__len__") else 1


@HOOKS.register_module()
class ProgressHook(Hook):
    """Progress of training and evaluation on the terminal of the first process; mmengine's log goes on beside it.

    Args:
        plain: lines instead of bars; None asks whether the output is a terminal.
    """

    priority = "LOW"

    def __init__(self, plain: bool | None = None) -> None:
        self.plain = plain
        self.shown = is_main_process()
        self.display: PlainDisplay | RichDisplay | None = None
        self.paces: dict[str, Pace] = {}
        self.evaluation_seconds = 0.0
        self.evaluation_began = 0.0

    def before_run(self, runner) -> None:
        if not self.shown:
            return
        console = Console(file=sys.stdout)
        plain = not console.is_terminal if self.plain is None else self.plain
        self.display = PlainDisplay() if plain else RichDisplay(console)
        self.display.start()

    def after_run(self, runner) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back; also called where a run ends in an error."""
        if self.display is not None:
            self.display.stop()
            self.display = None

    def before_train(self, runner) -> None:
        self.paces["train"] = Pace()

    def before_train_epoch(self, runner) -> None:
        if "train" in self.paces:
            self.paces["train"].resume()

    def after_train_iter(self, runner, batch_idx: int, data_batch=None, outputs: dict | None = None) -> None:
        if self.display is None:
            return
        pace, done, total = self.paces["train"], runner.iter + 1, runner.max_iters
        pace.tick(pictures_in(data_batch))
        if not self.display.due("train", done, total):
            return
        left = (total - done) * pace.seconds + self._evaluations_left(runner) * self.evaluation_seconds
        where = f"epoch {runner.epoch + 1}/{runner.max_epochs}" if _by_epoch(runner) else f"iteration {done}/{total}"
        loss = (outputs or {}).get("loss")
        loss = loss.detach() if isinstance(loss, Tensor) else loss
        text = f"{where}  {pace.words(done, total, left)}" + ("" if loss is None else f"  loss {float(loss):.4g}")
        self.display.update("train", done, total, text)

    def before_val_epoch(self, runner) -> None:
        self._begin_evaluation("val")

    def before_test_epoch(self, runner) -> None:
        self._begin_evaluation("test")

    def after_val_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._evaluated("val", batch_idx, len(runner.val_dataloader), data_batch)

    def after_test_iter(self, runner, batch_idx: int, data_batch=None, outputs=None) -> None:
        self._evaluated("test", batch_idx, len(runner.test_dataloader), data_batch)

    def after_val_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        when = f"epoch {runner.epoch}" if _by_epoch(runner) else f"iteration {runner.iter}"
        self._end_evaluation("val", when, metrics, runner.val_evaluator)

    def after_test_epoch(self, runner, metrics: dict[str, float] | None = None) -> None:
        self._end_evaluation("test", "", metrics, runner.test_evaluator)

    def _begin_evaluation(self, what: str) -> None:
        self.paces[what] = Pace()
        self.evaluation_began = time.monotonic()

    def _evaluated(self, what: str, batch_idx: int, batches: int, data_batch: Any) -> None:
        if self.display is None:
            return
        pace, done = self.paces[what], batch_idx + 1
        pace.tick(pictures_in(data_batch))
        if self.display.due(what, done, batches):
            self.display.update(what, done, batches, pace.words(done, batches, (batches - done) * pace.seconds))

    def _end_evaluation(self, what: str, when: str, metrics: dict | None, evaluator: Any) -> None:
        self.evaluation_seconds = time.monotonic() - self.evaluation_began
        if self.display is not None:
            self.display.forget(what)
            self.display.say(f"{what:5s} {when + ': ' if when else ''}{metrics_line(metrics or {}, evaluator)}")
        if "train" in self.paces:
            self.paces["train"].resume()

    @staticmethod
    def _evaluations_left(runner) -> int:
        if runner.val_loop is None:
            return 0
        last, now = (runner.max_epochs, runner.epoch) if _by_epoch(runner) else (runner.max_iters, runner.iter)
        # The last epoch or iteration is always followed by one.
        return math.ceil(last / runner.val_interval) - now // runner.val_interval


def _by_epoch(runner) -> bool:
    """Whether training counts in epochs; False too where nothing is trained."""
    return isinstance(runner._train_loop, EpochBasedTrainLoop)


class ItemProgress:
    """Progress of one thing after another, on a terminal or in lines: `with ItemProgress("infer", 20, "pictures")`.

    Args:
        what: is done, in a word.
        total: how many; 0 if nobody knows.
        unit: what they are.
    """

    def __init__(self, what: str, total: int, unit: str) -> None:
        self.what, self.total, self.unit = what, total, unit
        console = Console(file=sys.stdout)
        self.display = RichDisplay(console) if console.is_terminal else PlainDisplay()
        self.count, self.began = 0, time.monotonic()

    def __enter__(self) -> "ItemProgress":
        self.display.start()
        return self

    def done(self) -> None:
        """One more."""
        self.count += 1
        if not self.display.due(self.what, self.count, self.total):
            return
        pace = self.count / max(time.monotonic() - self.began, 1e-9)
        text = f"{self.count} {self.unit}  {pace:.1f} {self.unit}/s"
        if self.total:
            share, left = 100 * self.count // self.total, clock((self.total - self.count) / pace)
            text = f"{share:3d}%  {self.count}/{self.total} {self.unit}  {pace:.1f} {self.unit}/s  {left} left"
        self.display.update(self.what, self.count, self.total, text)

    def __exit__(self, *_: object) -> None:
        self.display.stop()
