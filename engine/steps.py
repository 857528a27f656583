"""Progress of counted work outside a Runner: configs tried, files read, networks timed."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from rich.console import Console

from .progress import Pace, PlainDisplay, RichDisplay, clock

Item = TypeVar("Item")


class Steps:
    """What is done, how far it is, how fast it goes and how long it still takes; used by `with`.

    A bar where the standard output is a terminal, gone when the work is done. Elsewhere lines on the standard error,
    where it has been quiet for 10 s or more (see `PlainDisplay`): what is written to a file or a pipe stays clean.

    Args:
        what: the work in a word or two.
        total: how many steps there are.
        unit: of a step, in the plural: 'configs'.
        plain: lines instead of a bar; None asks whether the output is a terminal.
    """

    def __init__(self, what: str, total: int, unit: str = "", plain: bool | None = None) -> None:
        self.what, self.total, self.unit = what, total, unit
        console = Console(file=sys.stdout)
        plain = not console.is_terminal if plain is None else plain
        self.display = PlainDisplay(sys.stderr) if plain else RichDisplay(console)
        self.pace = Pace()
        self.count = 0
        self.now = ""

    def __enter__(self) -> "Steps":
        self.display.start()
        self.pace.resume()
        return self

    def __exit__(self, *_) -> None:
        self.display.forget(self.what)
        self.display.stop()

    def begin(self, now: str) -> None:
        """Name the step that begins."""
        self.now = now
        self._show()

    def done(self, count: int = 1) -> None:
        """`count` more steps have ended."""
        self.count += count
        self.pace.tick(count)
        self._show()

    def say(self, line: str) -> None:
        """A line of result that stays, above the bar."""
        if isinstance(self.display, PlainDisplay):
            print(line, flush=True)
        else:
            self.display.say(line)

    def words(self) -> str:
        """`3/12  25%  4.0 configs/s  2 s left  davit_tiny`."""
        parts = [f"{self.count}/{self.total}", f"{100 * self.count // max(self.total, 1):3d}%"]
        if self.count:
            rate = self.pace.pictures / max(self.pace.seconds, 1e-9)
            parts.append(f"{rate:.1f} {self.unit or 'steps'}/s" if rate >= 1 else f"{clock(1 / rate)} each")
            parts.append(f"{clock((self.total - self.count) / rate)} left")
        return "  ".join([*parts, self.now] if self.now else parts)

    def _show(self) -> None:
        if self.display.due(self.what, self.count, self.total):
            self.display.update(self.what, self.count, self.total, self.words())


def tracked(items: Iterable[Item], what: str, unit: str = "", total: int | None = None) -> Iterator[Item]:
    """The items one after the other, with progress; `total` where they have no length."""
    with Steps(what, len(items) if total is None else total, unit) as steps:
        for item in items:
            yield item
            steps.done()
