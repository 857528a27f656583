"""Archives of data sets, unpacked inside of their folder or not at all."""

import contextlib
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ..errors import InputError

LARGEST_RATIO = 200  # unpacked bytes an archived byte; label images and JSON stay below 50
SMALL = 64 * 2**20  # bytes: what unpacks to less is no bomb, whatever its ratio
MOST_ENTRIES = 20_000_000  # ImageNet-21k has 14 million
KEPT_FREE = 2**28  # bytes of the disk that are left to others
CHUNK = 2**20


class Entry(NamedTuple):
    """One thing in an archive; `link` is the target of a symbolic link, `same_as` the name that a hard link repeats."""

    name: str
    size: int
    is_folder: bool = False
    link: str | None = None
    same_as: str | None = None


def unpack(archive: str | os.PathLike, folder: str | os.PathLike) -> tuple[int, int]:
    """Unpack a zip or tar archive (plain, gz, bz2, xz) into `folder`; returns the numbers of files and of bytes.

    All is written beside the folder first, and moved there when it is whole: an archive that is refused, damaged or
    interrupted leaves nothing. Owners, modes and times in the archive are not taken over.

    Raises:
        InputError: no archive; a name or a link that leads out of the folder; a device; an encrypted file; a name
            twice, or one that is in the folder already; far larger unpacked than packed, or than the disk has free.
    """
    archive, folder = Path(archive), Path(folder)
    if not archive.is_file():
        raise InputError(f"{archive}: no such archive")
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder}: there is a file of that name; name a folder to unpack into")
    try:
        folder.absolute().parent.mkdir(parents=True, exist_ok=True)
        staged = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.absolute().parent))
    except OSError as error:
        raise InputError(f"{folder}: cannot be made: {error.strerror}") from error
    try:
        counts = _write_all(archive, staged)
        _move(staged, folder)
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, UnicodeError) as error:
        raise InputError(f"{archive}: damaged, or cut off ({error}); fetch it again. Nothing was unpacked") from error
    except (NotImplementedError, RuntimeError) as error:  # zipfile: a method that it does not know, a password
        raise InputError(f"{archive}: cannot be unpacked: {error}") from error
    except OSError as error:
        raise InputError(f"{archive}: could not be unpacked into {folder}: {error}. Nothing was unpacked") from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return counts


def _write_all(archive: Path, staged: Path) -> tuple[int, int]:
    limit, why = _limit(archive, staged)
    files = total = 0
    links: dict[str, str] = {}
    with contextlib.closing(_entries(archive)) as entries:
        for count, (entry, source) in enumerate(entries):
            name = _inside(archive, entry.name)
            total += entry.size
            if total > limit or count >= MOST_ENTRIES:
                too_many = f"more than {MOST_ENTRIES:,} entries" if count >= MOST_ENTRIES else why
                raise InputError(f"{archive}: {too_many}; it was not unpacked")
            path = staged / name
            (path if entry.is_folder else path.parent).mkdir(parents=True, exist_ok=True)
            if entry.is_folder:
                continue
            files += 1
            if entry.link is not None:
                _inside(archive, name, entry.link)
                if links.setdefault(name, entry.link) != entry.link:
                    raise InputError(f"{archive}: {entry.name} is in it twice; it was not unpacked")
            elif entry.same_as is not None:
                first = _inside(archive, entry.same_as)
                if not (staged / first).is_file():
                    raise InputError(f"{archive}: {entry.name} is a link to {entry.same_as}, which is not in it before")
                os.link(staged / first, path)
            else:
                _write(archive, entry, source, path)
    for name, target in links.items():  # last, so that nothing was written through one
        os.symlink(target, staged / name)
    return files, total


def _limit(archive: Path, staged: Path) -> tuple[int, str]:
    """How many bytes it may have unpacked, and the words for one that has more."""
    size, free = archive.stat().st_size, shutil.disk_usage(staged).free - KEPT_FREE
    allowed = max(SMALL, LARGEST_RATIO * size)
    if free < allowed:
        return free, f"more unpacked than the disk of {staged.parent} has free ({max(free, 0) / 2**30:.1f} GiB)"
    return allowed, (
        f"{size:,} bytes that unpack to more than {allowed:,}, as no data set does: a zip bomb, made to fill the disk"
    )


def _inside(archive: Path, name: str, link: str | None = None) -> str:
    """The normal form of a name in an archive, or of the target of its symbolic `link` at that name.

    Raises:
        InputError: it leads out of the folder, or is none.
    """
    target = PurePosixPath((name if link is None else link).replace("\\", "/"))
    parts = list(PurePosixPath(name).parent.parts) if link is not None else []
    # A link may go up from its own folder; after a part that may be a link itself, `..` could lead anywhere.
    rising = True
    for part in target.parts:
        rising = rising and part == ".."
        if part == ".." and (not parts or (link is not None and not rising)):
            break
        parts = parts[:-1] if part == ".." else [*parts, part]
    else:
        if not target.is_absolute() and "\0" not in str(target) and not target.drive:
            return "/".join(parts)
    what = f"{name!r} in it" if link is None else f"{name} is a link to {link!r} and"
    raise InputError(
        f"{archive}: {what} leads out of the folder, as an archive does that is made to write elsewhere: it was not "
        "unpacked; get it from a source that you trust"
    )


def _write(archive: Path, entry: Entry, source: IO[bytes], path: Path) -> None:
    written = 0
    try:
        file = path.open("xb")
    except FileExistsError as error:
        raise InputError(f"{archive}: {entry.name} is in it twice; it was not unpacked") from error
    with file:
        while chunk := source.read(min(CHUNK, entry.size - written + 1)):
            written += len(chunk)
            if written > entry.size:
                raise InputError(f"{archive}: {entry.name} is larger than it says ({entry.size} bytes)")
            file.write(chunk)
    if written < entry.size:
        raise EOFError(f"{entry.name} ends after {written} of {entry.size} bytes")


def _entries(archive: Path) -> Iterator[tuple[Entry, IO[bytes] | None]]:
    """What is in an archive, in its order, each with the stream of its bytes.

    Raises:
        InputError: neither zip nor tar; a device, or an encrypted file.
    """
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                if stat.S_ISLNK(member.external_attr >> 16):
                    raise InputError(
                        f"{archive}: {member.filename} is a link, which zip archives of data need not have"
                    )
                if member.flag_bits & 1:
                    raise InputError(f"{archive}: {member.filename} is encrypted; unpack it by hand")
                if member.is_dir():
                    yield Entry(member.filename, 0, is_folder=True), None
                else:
                    with packed.open(member) as source:
                        yield Entry(member.filename, member.file_size), source
        return
    try:
        packed = tarfile.open(archive, "r:*")
    except tarfile.ReadError as error:
        raise InputError(f"{archive}: neither a zip nor a tar archive ({error})") from error
    with packed:
        for member in packed:
            packed.members = []  # kept for look-ups that nobody makes here, some 1 KB each
            if member.isdir():
                yield Entry(member.name, 0, is_folder=True), None
            elif member.issym():
                yield Entry(member.name, 0, link=member.linkname), None
            elif member.islnk():
                yield Entry(member.name, 0, same_as=member.linkname), None
            elif member.isreg():
                yield Entry(member.name, member.size), packed.extractfile(member)
            else:
                raise InputError(f"{archive}: {member.name} is a device, not a file of data; it was not unpacked")


def _move(staged: Path, folder: Path) -> None:
    """Give the staged folder its name, or move what it has into the folder that is there.

    Raises:
        InputError: a name is taken; nothing was moved.
    """
    os.chmod(staged, 0o777 & ~_umask())  # temporary folders are private
    if not folder.exists():
        os.replace(staged, folder)
        return
    names = sorted(os.listdir(staged))
    if taken := [name for name in names if os.path.lexists(folder / name)]:
        raise InputError(f"{folder}: has {taken[0]!r} already; unpack into another folder, or take it away first")
    for name in names:
        os.replace(staged / name, folder / name)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
