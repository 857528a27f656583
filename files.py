"""Files that are there whole or not at all."""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

PART = ".part"  # ends the name of a file that is still being written
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class _Watched:
    """A file that remembers the error of a write: torch's writer turns it into one that does not name it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


@contextlib.contextmanager
def whole_file(path: str | os.PathLike, durable: bool = True) -> Iterator[_Watched]:
    """Write a file under another name in its folder, flush it to the disk, then give it its name.

    Args:
        path: of the file; its folder is there.
        durable: wait for the disk, so that not even a failure of the power leaves half of it; some milliseconds.

    Whoever looks, whenever the process ends, finds the old file or the new one. A killed process leaves what it has
    written under a name that ends in `PART`.

    Raises:
        OSError: it could not be written; the old file is untouched, and nothing is left of the new one.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.{os.getpid()}{PART}")  # several processes may write the same file
    watched = None
    try:
        with open(part, "wb") as file:
            watched = _Watched(file)
            yield watched
            if durable:
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            part.unlink()
        if watched is not None and watched.error is not None and watched.error is not error:
            raise watched.error from error
        raise
    if durable:
        flush_folder(path.parent)


def flush_folder(folder: str | os.PathLike) -> None:
    """Have the names in a folder on the disk, where the system can do it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some file systems refuse to flush a folder
            os.fsync(handle)
    finally:
        os.close(handle)


def write_text(path: str | os.PathLike, text: str) -> None:
    """`Path.write_text`, whole or not at all."""
    with whole_file(path) as file:
        file.write(text.encode())


def is_full(error: OSError) -> bool:
    """Whether an error says that there is no room left: the disk, a quota, a limit on the size of files."""
    return error.errno in FULL
