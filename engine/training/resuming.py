"""Which checkpoint a run goes on from: the newest that is whole."""

import zipfile
from pathlib import Path
from typing import NamedTuple

from ...backbones.reading import read_checkpoint
from ...errors import InputError
from ..parallel.folder import read_rest, verify
from .state import KEY

PATTERNS = "*.pth", "*.sharded"  # files, and folders of a sharded model
BEST = "best_"  # begins the names of checkpoints that hold weights without the state of a run


class Resumable(NamedTuple):
    """A checkpoint that a run can go on from, and what was passed over to find it."""

    path: Path
    iteration: int
    seed: int | None
    passed: tuple[str, ...]  # newer ones that are damaged: name and what is wrong with it


def find_resumable(work_dir: str | Path) -> Resumable | None:
    """The checkpoint of the most iterations in a work directory that is whole, to the last byte; None: it has none.

    Damaged ones are passed over and named in `passed`.

    Raises:
        InputError: there are checkpoints, and all are damaged.
    """
    passed, states = [], []
    for path in (path for pattern in PATTERNS for path in Path(work_dir).glob(pattern)):
        if path.name.startswith(BEST):
            continue
        try:
            state = _state_of(path)
        except InputError as error:
            passed.append(str(error))
            continue
        if state is not None:
            states.append((*state, path))
    for iteration, seed, path in sorted(
        states, key=lambda state: (state[0], state[2].stat().st_mtime_ns), reverse=True
    ):
        try:
            need_whole(path)
        except InputError as error:
            passed.append(str(error))
            continue
        return Resumable(path, iteration, seed, tuple(passed))
    if passed:
        raise InputError(
            f"{work_dir}: none of its checkpoints can be gone on from: {'; '.join(passed)}. Remove them to start anew"
        )
    return None


def look_at(path: str | Path) -> tuple[int, int | None]:
    """Iteration and seed of a run's checkpoint.

    Raises:
        InputError: it is missing or damaged, or has no state of a run.
    """
    state = _state_of(path)
    if state is None:
        raise InputError(
            f"{path}: it has weights, but no state of a run to go on with: start from its weights with --load-from "
            "(in a config: load_from, and resume=False)"
        )
    need_whole(path)
    return state


def _state_of(path: str | Path) -> tuple[int, int | None] | None:
    content = read_rest(Path(path))["rest"] if Path(path).is_dir() else read_checkpoint(path, mmap=True)
    meta = content.get("meta") or {}
    if "iter" not in meta or "epoch" not in meta or "message_hub" not in content:
        return None
    return int(meta["iter"]), content.get(KEY, {}).get("seed", meta.get("seed"))


def need_whole(path: str | Path) -> None:
    """Ask that every byte of a checkpoint in torch's zip form is what was written, by the checksums in it.

    Raises:
        InputError: it is cut off or changed. Other forms pass: they have no checksums.
    """
    path = Path(path)
    if path.is_dir():
        verify(path)
        return
    with open(path, "rb") as file:
        head = file.read(2)
    if head == b"PK":
        try:
            with zipfile.ZipFile(path) as archive:
                wrong = archive.testzip()
        except (zipfile.BadZipFile, OSError, EOFError) as error:
            raise InputError(f"{path}: damaged: it was cut off ({path.stat().st_size} bytes; {error})") from error
        if wrong is not None:
            raise InputError(f"{path}: damaged: the checksum of {wrong} in it is another")
    elif not path.stat().st_size:
        raise InputError(f"{path}: damaged: the file is empty")
