"""Checks of folders: pictures with label images, as mmseg's `BaseSegDataset` reads them, and class folders."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..errors import InputError
from .check_pictures import look_at, need_files, need_folder, picture_size, remedy, some
from .image_folder import match_folders, pictures_of, read_classes

_ONE_CHANNEL = ("1", "L", "P", "I", "I;16", "F")


def check_segmentation(settings: dict[str, Any], key: str, split: str) -> dict[str, Any]:
    """Check one data set of pictures and label images.

    Args:
        settings: `img_path` and `seg_map_path` (folders joined to the root, the latter may be None), `ann_file` (a
            list of names, or ''), `img_suffix`, `seg_map_suffix`, `classes`, `reduce_zero_label`, `ignore_index`,
            `labels` (how many classes the files have: more than `classes` where mmseg maps them).
        key, split: of the data set in the config.

    Returns:
        A table, see `check_inputs`.

    Raises:
        InputError: what is wrong with it.
    """
    folder, labels = settings["img_path"], settings["seg_map_path"]
    need_folder(folder, f"{key}.data_root and {key}.data_prefix.img_path")
    stems = _stems(settings, key)
    pictures = [os.path.join(folder, stem + settings["img_suffix"]) for stem in stems]
    if settings["ann_file"]:
        need_files(pictures, settings["ann_file"], f"put them into {folder}, or set {key}.data_prefix.img_path")
    if labels is None:
        _, note = look_at(pictures, picture_size)
        notes = [note] if note else []
        return dict(pictures=len(pictures), where=folder, classes={}, unit="pixels", notes=notes)
    need_folder(labels, f"{key}.data_prefix.seg_map_path")
    maps = [os.path.join(labels, stem + settings["seg_map_suffix"]) for stem in stems]
    need_files(
        maps,
        f"{folder}: label images of its pictures",
        f"each picture needs one of its name in {labels}; set {key}.data_prefix.seg_map_path or {key}.seg_map_suffix",
    )
    allowed = np.zeros(65536, bool)
    first = 1 if settings["reduce_zero_label"] else 0
    allowed[: first + settings["labels"]] = True
    allowed[settings["ignore_index"]] = allowed[255] = True

    def look(pair: tuple[str, str]) -> tuple[np.ndarray, np.ndarray]:
        found, numbers = _label_values(pair[1], picture_size(pair[0]))
        if (bad := found[~allowed[found]]).size:
            last = first + settings["labels"] - 1
            reduced = " (0 is left out: reduce_zero_label)" if first else ""
            raise InputError(
                f"{pair[1]}: holds the label {some(bad)}; {settings['labels']} classes are the labels {first} to "
                f"{last}{reduced}, and 255 is left out: correct the file, {key}.metainfo.classes or "
                f"{key}.reduce_zero_label (a label for 'background' stands in classes, too)"
            )
        return found, numbers

    results, note = look_at(list(zip(pictures, maps, strict=True)), look)
    sums = np.zeros(65536, np.int64)
    for found, numbers in results:
        sums[found] += numbers
    notes = [note] if note else []
    names = list(settings["classes"])
    counts = {name: int(sums[first + i]) for i, name in enumerate(names)} if settings["labels"] == len(names) else {}
    if counts and not sum(counts.values()):
        raise InputError(
            f"{labels}: no pixel of any class in {len(results)} label images, only what is left out; is "
            f"{key}.reduce_zero_label={settings['reduce_zero_label']} right?"
        )
    if empty := [name for name, count in counts.items() if not count]:
        notes.append(f"no pixel of class {some(map(repr, empty))}")
    return dict(pictures=len(pictures), where=folder, classes=counts, unit="pixels", notes=notes)


def _stems(settings: dict[str, Any], key: str) -> list[str]:
    """Names of the pictures without suffix, relative to their folder."""
    suffix, folder, listed = settings["img_suffix"], settings["img_path"], settings["ann_file"]
    if listed and not os.path.isdir(listed):  # mmseg passes a folder over
        if not os.path.isfile(listed):
            raise InputError(f"{listed}: no such list of pictures; {remedy(listed, f'{key}.ann_file')}")
        with open(listed, encoding="utf-8") as file:
            stems = [line.strip() for line in file if line.strip()]
        if not stems:
            raise InputError(f"{listed}: the list of pictures is empty; set {key}.ann_file")
        return stems
    paths = pictures_of(folder, ("",))
    stems = [os.path.relpath(path, folder).removesuffix(suffix) for path in paths if path.endswith(suffix)]
    if not stems:
        others = sorted({os.path.splitext(path)[1] for path in paths})
        raise InputError(f"{folder}: no file ends in {suffix!r} (there are {some(others)}); set {key}.img_suffix")
    return stems


def _label_values(path: str, size: tuple[int, int] | None) -> tuple[np.ndarray, np.ndarray]:
    """The labels in a label image, and how many pixels each has."""
    picture_size(path)
    with Image.open(path) as picture:
        if picture.mode not in _ONE_CHANNEL:
            raise InputError(
                f"{path}: a colour picture ({picture.mode}); a label image holds one number a pixel, the class: "
                "save it with one channel (mode L or P)"
            )
        if size is not None and picture.size != size:
            raise InputError(
                f"{path}: {picture.size[0]} x {picture.size[1]} pixels, but its picture has {size[0]} x {size[1]}; "
                "make the two alike"
            )
        values = np.asarray(picture).astype(np.int64).clip(0, 65535)
    counts = np.bincount(values.ravel())
    found = np.flatnonzero(counts)
    return found, counts[found]


def check_class_folders(settings: dict[str, Any], key: str, split: str) -> dict[str, Any]:
    """Check one data set of class folders.

    Args:
        settings: `img_path` (the folder that holds them), `classes` (None, a list or a file) and `suffixes`.
        key, split: of the data set in the config.

    Returns:
        A table, see `check_inputs`.

    Raises:
        InputError: what is wrong with it.
    """
    root = settings["img_path"]
    need_folder(root, f"{key}.data_root and {key}.data_prefix")
    classes = match_folders(root, None if settings["classes"] is None else read_classes(settings["classes"]))
    found = {name: pictures_of(os.path.join(root, name), settings["suffixes"]) for name in classes}
    files = [path for paths in found.values() for path in paths]
    if not files:
        raise InputError(f"{root}: no pictures in its class folders; looked for {', '.join(settings['suffixes'])}")
    _, note = look_at(files, picture_size)
    notes = [note] if note else []
    if empty := [name for name, paths in found.items() if not paths]:
        notes.append(f"no picture of class {some(map(repr, empty))}")
    counts = {name: len(paths) for name, paths in found.items()}
    return dict(pictures=len(files), where=root, classes=counts, unit="pictures", notes=notes)


def same_classes(first: tuple[str, Sequence[str]], second: tuple[str, Sequence[str]]) -> None:
    """Ask that two class folders, each (root, classes), number their classes alike.

    Raises:
        InputError: they do not: a label would mean one class in training and another in validation.
    """
    if list(first[1]) == list(second[1]):
        return
    only = [sorted(set(a[1]) - set(b[1])) for a, b in ((first, second), (second, first))]
    words = [
        f"{some(map(repr, names))} only in {root}"
        for names, (root, _) in zip(only, (first, second), strict=True)
        if names
    ]
    raise InputError(
        f"{second[0]}: other classes than {first[0]}: {'; '.join(words) or 'the same in another order'}. Numbers would "
        "not mean the same: give both the same `classes`, and an empty folder to a class without pictures"
    )
