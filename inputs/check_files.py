"""Looks at folders, annotation files and pictures, and says in one message what is wrong with them."""

import contextvars
import hashlib
import json
import os
import random
import struct
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ..errors import InputError

SECONDS = 3.0  # for the pictures of one data set; what does not fit in is left out, and the report says so
NOT_PICTURES = (".npy", ".npz", ".nii", ".gz", ".h5", ".mat")  # read by special loaders, not looked into

_BROKEN = (OSError, SyntaxError, ValueError, EOFError, struct.error)  # what PIL raises on damaged files
Result = TypeVar("Result")


class Place(NamedTuple):
    """A folder or file of a data set, and the config entries that name it."""

    path: str
    keys: str

    @property
    def remedy(self) -> str:
        """What to do if it is not there; the bundled data can be made."""
        parts = Path(self.path).parts
        if "digits" in parts and (index := parts.index("digits")) + 1 < len(parts):
            if parts[index + 1] in ("coco", "ade20k", "imagenet"):
                return f"make it with `bestiary data digits {Path(*parts[: index + 1])}`, or set {self.keys}"
        return f"set {self.keys} to where it is"


def is_remote(*paths: str) -> bool:
    """Whether one of the paths is an address, as s3://..., that the local file system does not know."""
    return any("://" in path for path in paths)


def some(names: Sequence[object], limit: int = 3) -> str:
    """The first names, quoted, and how many more there are."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(repr(name) for name in names[:limit]) + more


def need_folder(place: Place, what: str = "folder") -> None:
    """Ask for a folder with something in it.

    Raises:
        InputError: it is missing, a file, or empty.
    """
    if not os.path.exists(place.path):
        raise InputError(f"{place.path}: no such {what}; {place.remedy}")
    if not os.path.isdir(place.path):
        raise InputError(f"{place.path}: a file; expected a {what}; set {place.keys}")
    with os.scandir(place.path) as entries:
        if next(entries, None) is None:
            raise InputError(f"{place.path}: the {what} is empty; {place.remedy}")


def need_file(place: Place, what: str = "annotation file") -> None:
    """Ask for a file.

    Raises:
        InputError: it is missing, or a folder.
    """
    if not os.path.exists(place.path):
        raise InputError(f"{place.path}: no such {what}; {place.remedy}")
    if not os.path.isfile(place.path):
        raise InputError(f"{place.path}: a folder; expected the {what}; set {place.keys}")


def read_json(place: Place, expected: str = "COCO's instances JSON") -> Any:
    """The content of a JSON file, of which `expected` says what it should be.

    Raises:
        InputError: it is missing, empty, or not JSON.
    """
    need_file(place)
    try:
        return json.loads(Path(place.path).read_bytes())
    except (ValueError, RecursionError) as error:  # of the decoding of text and of JSON alike; nested without end
        raise InputError(
            f"{place.path}: not JSON: {error}; expected {expected}: write the file again, or set {place.keys}"
        ) from error


def digest(path: str | os.PathLike, kind: str = "sha256") -> str:
    """Hexadecimal digest of a file."""
    found = hashlib.new(kind)
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            found.update(block)
    return found.hexdigest()


def absent(paths: Sequence[str]) -> list[str]:
    """Those of `paths` that are not there; lists each folder once, which is quicker than to ask for each file."""
    listings: dict[str, set[str]] = {}
    missing = []
    for path in paths:
        folder, name = os.path.split(path)
        if folder not in listings:
            listings[folder] = set(os.listdir(folder or ".")) if os.path.isdir(folder or ".") else set()
        if name not in listings[folder]:
            missing.append(path)
    return missing


def look_at(
    paths: Sequence[str], look: Callable[[int], Result], seconds: float | None = None
) -> tuple[list[Result], str | None]:
    """`look(index)` for paths in random, repeatable order until the time is over.

    Returns:
        The results, and a note if some were left out.
    """
    order = list(range(len(paths)))
    random.Random(0).shuffle(order)
    end = time.monotonic() + (SECONDS if seconds is None else seconds)
    results: list[Result] = []
    with ThreadPoolExecutor(min(8, 2 * (os.cpu_count() or 1))) as pool:
        for start in range(0, len(order), 64):
            if start and time.monotonic() > end:
                return results, f"looked at {len(results)} of {len(paths)} files, picked at random, to save time"
            results.extend(pool.map(look, order[start : start + 64]))
    return results, None


def decode(path: str) -> tuple[str | None, tuple[int, int] | None]:
    """Why a picture cannot be decoded, or None, and its (width, height), if PIL knows.

    JPEGs are decoded small, which still reads every byte.
    """
    if path.lower().endswith(NOT_PICTURES):
        return None, None
    try:
        with Image.open(path) as picture:
            size = picture.size
            picture.draft("RGB", (max(picture.width // 8, 1), max(picture.height // 8, 1)))
            picture.load()
    except Image.DecompressionBombError:  # large, not damaged
        return None, None
    except UnidentifiedImageError:
        content = np.fromfile(path, np.uint8)
        if not len(content):
            return "the file is empty", None
        # OpenCV, which reads the pictures in training, knows kinds that PIL does not.
        return None if cv2.imdecode(content, cv2.IMREAD_UNCHANGED) is not None else "not a picture", None
    except _BROKEN as error:
        return str(error).strip() or type(error).__name__, None
    return None, size


MAY_BREAK = contextvars.ContextVar("MAY_BREAK", default=0)  # files of the split looked at, as bad_samples allows


def check_pictures(
    paths: Sequence[str], sizes: Sequence[tuple[int, int]] | None = None, said_by: str = ""
) -> str | None:
    """Ask that pictures can be decoded; gives a note if there was no time for all.

    Args:
        paths: of the pictures.
        sizes: (width, height) of each, as an annotation file has it.
        said_by: that file.

    Raises:
        InputError: some cannot, more than `MAY_BREAK`; some have another size.
    """
    results, note = look_at(paths, lambda index: (index, *decode(paths[index])))
    broken = sorted((paths[index], why) for index, why, _ in results if why is not None)
    if broken and len(broken) <= MAY_BREAK.get():
        note = "; ".join(
            filter(None, (note, f"cannot be decoded, and will be replaced: {some([p for p, _ in broken])}"))
        )
    elif broken:
        path, why = broken[0]
        also = f" (also {', '.join(path for path, _ in broken[1:3])})" if broken[1:] else ""
        count = f"{len(broken)} of {len(results)} pictures" if len(broken) > 1 else f"1 of {len(results)} pictures"
        raise InputError(
            f"{path}: cannot be decoded: {why}{also}; {count} looked at cannot: replace them, or take them out of "
            "the data set"
        )
    for index, _, size in sorted(results) if sizes is not None else ():
        if size is not None and sizes[index] not in (size, size[::-1]):  # turned: mmcv obeys a note on orientation
            raise InputError(
                f"{paths[index]}: is {size[0]} x {size[1]}, but {said_by} says {sizes[index][0]} x {sizes[index][1]}: "
                "boxes and masks would not fit; put the picture in that was annotated, or correct width and height"
            )
    return note


class Labels(NamedTuple):
    """A label image: number of pixels of each value that occurs, or what is wrong with it."""

    path: str
    counts: dict[int, int]
    wrong: str | None = None


def read_labels(path: str, picture: str) -> Labels:
    """Count the values of a label image and compare its size with its picture's."""
    try:
        with Image.open(path) as image:
            values, size = np.asarray(image), image.size
        with Image.open(picture) as image:
            expected = image.size
    except Image.DecompressionBombError:
        return Labels(path, {})
    except _BROKEN as error:
        return Labels(path, {}, f"cannot be decoded: {error}; replace it or take it and its picture out")
    if values.ndim != 2:
        return Labels(
            path, {}, f"has {values.shape[-1]} channels; expected one number a pixel: colours must become class numbers"
        )
    if size not in (expected, expected[::-1]):  # turned: a picture with a note on its orientation
        return Labels(
            path,
            {},
            f"is {size[0]} x {size[1]}, its picture {picture} is {expected[0]} x {expected[1]}: make them one size",
        )
    found, counts = np.unique(values, return_counts=True)
    return Labels(path, dict(zip(found.tolist(), counts.tolist(), strict=True)))
