"""Files behind a data set: are they there, can they be decoded."""

import os
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from PIL import Image

from ..errors import InputError

SECONDS = 4.0  # at most, for reading pictures; what is not read by then is left out, and the report says so
READABLE = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif")  # other kinds may be readable by OpenCV and not by PIL

T = TypeVar("T")


def remedy(path: str | os.PathLike, key: str) -> str:
    """What to do about a missing file or folder: make the bundled digits if it is theirs, else mend the config."""
    parts = Path(path).parts
    if "digits" in parts:
        root = Path(*parts[: parts.index("digits") + 1])
        return f"make it with `bestiary data digits {root}`, or set {key}"
    return f"set {key}"


def some(items: Iterable[object], shown: int = 3) -> str:
    """The first items, and how many more there are."""
    items = list(items)
    more = f" and {len(items) - shown} more" if len(items) > shown else ""
    return ", ".join(str(item) for item in items[:shown]) + more


def need_folder(folder: str, key: str) -> None:
    """Ask for a folder with something in it.

    Raises:
        InputError: it is missing, no folder, or empty; of missing folders in each other, the outermost is named.
    """
    if os.path.isdir(folder):
        with os.scandir(folder) as entries:
            if next(entries, None) is None:
                raise InputError(f"{folder}: the folder is empty; {remedy(folder, key)}")
        return
    if os.path.exists(folder):
        raise InputError(f"{folder}: not a folder; {remedy(folder, key)}")
    outermost = Path(folder)
    while outermost.parent != outermost and not outermost.parent.is_dir():
        outermost = outermost.parent
    inside = "" if outermost == Path(folder) else f" (wanted: {folder})"
    raise InputError(f"{outermost}: no such folder{inside}; {remedy(folder, key)}")


def need_files(paths: Sequence[str], said_by: str, advice: str) -> None:
    """Ask that all `paths` exist; each folder is listed once, which on network disks is far quicker than asking.

    Raises:
        InputError: some do not; the first are named, and all counted.
    """
    listed: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listed:
            try:
                listed[folder] = set(os.listdir(folder or "."))
            except (FileNotFoundError, NotADirectoryError):
                listed[folder] = set()
        if name not in listed[folder]:
            missing.append(path)
    if missing:
        count = f"{len(missing)} of {len(paths)}"
        raise InputError(f"{said_by}: {count} files are not there: {some(missing)}; {advice}")


def picture_size(path: str) -> tuple[int, int] | None:
    """Decode a picture; (W, H), or None for a kind of file that is left alone.

    Raises:
        InputError: it cannot be decoded.
    """
    if not path.lower().endswith(READABLE):
        return None
    try:
        with Image.open(path) as picture:
            picture.load()
            return picture.size
    except Image.DecompressionBombError:  # too large for PIL's taste; not broken
        return None
    except (OSError, SyntaxError) as error:  # PIL: SyntaxError is a broken PNG
        words = "not a picture" if isinstance(error, Image.UnidentifiedImageError) else str(error)
        raise InputError(
            f"{path}: cannot be decoded ({words}); replace the file, or take it out of the data"
        ) from error


def look_at(items: Sequence[T], look: Callable[[T], Any], seconds: float | None = None) -> tuple[list[Any], str | None]:
    """Call `look` on the items, in threads, for so many seconds (`SECONDS` if None); its errors are raised.

    Returns:
        The results, in no particular order; and, if time was up before the end, words about how many there are.
    """
    deadline = time.monotonic() + (SECONDS if seconds is None else seconds)
    # An even spread at whatever moment time is up: first every 64th item, then those half way between, and so on.
    order: list[T] = []
    taken: set[int] = set()
    step = 64
    while step:
        new = [i for i in range(0, len(items), step) if i not in taken]
        taken.update(new)
        order += [items[i] for i in new]
        step //= 2
    workers = min(8, len(os.sched_getaffinity(0)) + 1)
    results: list[Any] = []
    with ThreadPoolExecutor(workers) as pool:
        for start in range(0, len(order), 8 * workers):
            if time.monotonic() > deadline:
                break
            results += pool.map(look, order[start : start + 8 * workers])
    note = None
    if len(results) < len(items):
        note = f"{len(results)} of {len(items)} pictures were opened, a sample spread evenly"
    return results, note
