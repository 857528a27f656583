"""Which checkpoint a run goes on from: the newest that is whole."""

import zipfile
from pathlib import Path
from typing import Any, NamedTuple

from ...backbones.reading import read_checkpoint
from ...errors import InputError
from .state import KEY

PATTERN = "*.pth"
BEST = "best_"  # begins the names of checkpoints that hold weights without the state of a run


class Resumable(NamedTuple):
    """A checkpoint that a run can go on from, and what was passed over to find it."""

    path: Path
    iteration: int
    seed: int | None
    passed: tuple[str, ...]  # newer ones that are damaged: name and what is wrong with it


def find_resumable(work_dir: str | Path) -> Resumable | None:
    """The newest checkpoint in a work directory of which every byte is as it was written; None: it has none.

    A damaged one is passed over and named in `passed`.

    Raises:
        InputError: there are checkpoints, and all are damaged.
    """
    passed = []
    files = [path for path in Path(work_dir).glob(PATTERN) if not path.name.startswith(BEST)]
    for path in sorted(files, key=_age):
        try:
            iteration, seed = look_at(path)
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
        InputError: it is damaged, or has no state of a run.
    """
    need_whole(path)
    content = read_checkpoint(path)
    meta = content.get("meta") or {}
    if "iter" not in meta or "message_hub" not in content:
        raise InputError(
            f"{path}: it has weights, but no state of a run to go on with: start from its weights with --load-from"
        )
    return int(meta["iter"]), content.get(KEY, {}).get("seed", meta.get("seed"))


def need_whole(path: str | Path) -> None:
    """Ask that every byte of a checkpoint in torch's zip form is what was written, by the checksums in it.

    Raises:
        InputError: it is cut off or changed. Other forms pass: they have no checksums.
    """
    path = Path(path)
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


def _age(path: Path) -> Any:
    return -path.stat().st_mtime_ns, path.name
