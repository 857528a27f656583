"""Long loops over files, of which whoever has set them going may show the progress."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextvars import ContextVar
from typing import TypeVar

Item = TypeVar("Item")
Watch = Callable[[Sequence, str], Iterable]  # items, and what they are in the plural

_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


def watched(items: Iterable[Item], what: str) -> Iterable[Item]:
    """The items, through the watch that `watching` has set; as they are without one."""
    watch = _watch.get()
    return items if watch is None else watch(list(items), what)


@contextlib.contextmanager
def watching(watch: Watch) -> Iterator[None]:
    """Inside the `with` block every `watched` loop goes through `watch`."""
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)
