"""What a person's data hold, read from the files alone: classes, masks, sizes of boxes and pictures."""

import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ..errors import InputError
from .check_coco import read_coco
from .check_files import Place, need_folder, read_labels, some
from .image_folder import SUFFIXES, class_folders, pictures_of, read_classes

IGNORED = 255  # of label images


class Objects(NamedTuple):
    """Of a COCO file: class names in its order, whether every object has a mask, boxes and pictures in pixels."""

    classes: tuple[str, ...]
    with_masks: bool
    boxes: np.ndarray  # (N, 2), width and height
    pictures: np.ndarray  # (N, 2), width and height of each box's picture
    longest: int  # side of any picture
    count: int  # of the pictures


def objects_of(annotations: str, keys: str) -> Objects:
    """Look at COCO's instances JSON; ids may have gaps, names may be anything.

    Raises:
        InputError: see `read_coco`; a name is no text, or occurs twice; no object has a box.
    """
    document = read_coco(Place(annotations, keys))
    names = [category["name"] for category in document["categories"]]
    if odd := [name for name in names if not isinstance(name, str) or not name]:
        raise InputError(
            f"{annotations}: the names of categories are text, and these are not: {some(odd)}: write them so"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(f"{annotations}: categories of one name: {some(twice)}: give each a name of its own")
    sizes = {picture["id"]: (picture["width"], picture["height"]) for picture in document["images"]}
    known = {category["id"] for category in document["categories"]}
    kept = [
        entry
        for entry in document["annotations"]
        if entry["category_id"] in known and entry["image_id"] in sizes and min(entry["bbox"][2:]) >= 1
    ]
    if not kept:
        raise InputError(f"{annotations}: has no object with a box of its categories and pictures; set {keys}")
    return Objects(
        classes=tuple(names),
        with_masks=all(entry.get("segmentation") for entry in kept),
        boxes=np.array([entry["bbox"][2:] for entry in kept], dtype=np.float64),
        pictures=np.array([sizes[entry["image_id"]] for entry in kept], dtype=np.float64),
        longest=max(max(size) for size in sizes.values()),
        count=len(sizes),
    )


class Regions(NamedTuple):
    """Of label images: class names, endings of the files, the longest side of a picture, number of pictures."""

    classes: tuple[str, ...]
    picture_suffix: str
    label_suffix: str
    longest: int
    count: int


def regions_of(pictures: str, labels: str, names: str | Sequence[str] | None, keys: tuple[str, str]) -> Regions:
    """Look at a folder of pictures and one of label images; each label image is read.

    Args:
        pictures, labels: folders; a label image has its picture's name and another ending.
        names: class names, or a text file with one a line. None: as many as the largest label says, as 'class 0'.
        keys: config entries of the two folders, for messages.

    Raises:
        InputError: a folder is missing or empty; endings are mixed; label images are damaged or coloured; there are
            more labels than names.
    """
    for path, key, what in zip((pictures, labels), keys, ("picture folder", "label folder"), strict=True):
        need_folder(Place(path, key), what)
    picture_suffix, label_suffix = _suffix(pictures), _suffix(labels)
    files = sorted(Path(labels).rglob(f"*{label_suffix}"))
    partners = [
        Path(pictures) / f"{str(path.relative_to(labels)).removesuffix(label_suffix)}{picture_suffix}" for path in files
    ]
    if lost := [str(path) for path in partners if not path.is_file()]:
        raise InputError(
            f"{labels}: {len(lost)} label images have no picture: {some(lost)}: add them, or take them out"
        )
    with ThreadPoolExecutor() as pool:
        found = list(pool.map(lambda pair: read_labels(str(pair[0]), str(pair[1])), zip(files, partners, strict=True)))
    if wrong := [each for each in found if each.wrong is not None]:
        raise InputError(f"{wrong[0].path}: {wrong[0].wrong} ({len(wrong)} of {len(files)} label images)")
    largest = max((value for each in found for value in each.counts if value != IGNORED), default=-1)
    if largest < 0:
        raise InputError(
            f"{labels}: every pixel is {IGNORED}, 'ignore': nothing to learn from; correct the label images"
        )
    classes = read_classes(names) if names is not None else tuple(f"class {value}" for value in range(largest + 1))
    if largest >= len(classes):
        raise InputError(
            f"{labels}: has the label {largest}; the {len(classes)} class names are for 0 to {len(classes) - 1}: "
            "add names, or correct the label images"
        )
    return Regions(classes, picture_suffix, label_suffix, longest_side(partners), len(files))


def _suffix(folder: str) -> str:
    """The one ending of the files of a folder."""
    names = [name for _, _, files in os.walk(folder) for name in files if name.lower().endswith(SUFFIXES)]
    endings = Counter(os.path.splitext(name)[1] for name in names)
    if not endings:
        raise InputError(f"{folder}: no pictures in it; looked for {', '.join(SUFFIXES)}")
    if len(endings) > 1:
        given = ", ".join(f"{count} {ending}" for ending, count in endings.most_common())
        raise InputError(f"{folder}: its pictures have several endings ({given}): give all of them one")
    return next(iter(endings))


def longest_side(paths: Sequence[str | Path], limit: int = 1000) -> int:
    """In pixels, of the pictures, or of `limit` of them evenly chosen."""
    longest = 0
    for path in paths[:: max(1, len(paths) // limit)]:
        with Image.open(path) as picture:
            longest = max(longest, *picture.size)
    return longest


class Folders(NamedTuple):
    """Of class folders: names, sorted as text, the longest side of a picture, and number of pictures."""

    classes: tuple[str, ...]
    longest: int
    count: int


def folders_of(pictures: str, keys: str) -> Folders:
    """Look at a folder of class folders.

    Raises:
        InputError: it is missing; it holds no folders, or no pictures in them.
    """
    need_folder(Place(pictures, keys), "picture folder")
    files = [path for name in class_folders(pictures) for path in pictures_of(os.path.join(pictures, name))]
    if not files:
        raise InputError(f"{pictures}: no pictures in its class folders; looked for {', '.join(SUFFIXES)}")
    return Folders(tuple(class_folders(pictures)), longest_side(files), len(files))
