"""Checks of pictures with label images, as mmseg's and mmdet's `BaseSegDataset` read them."""

import os
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from ..errors import InputError
from .check_data import Data, Report
from .check_files import Place, absent, check_pictures, look_at, need_file, need_folder, read_labels, some


def check_segmentation(data: Data, model: Mapping | None) -> Report:
    pictures, labels = data.place("data_prefix", "img_path"), data.place("data_prefix", "seg_map_path")
    if pictures is None:
        raise InputError(f"{data.key}: data_prefix has no img_path; set {data.key}.data_prefix.img_path")
    need_folder(pictures, "picture folder")
    suffix, label_suffix = data.default("img_suffix"), data.default("seg_map_suffix")
    names = _picture_names(data, pictures, suffix)
    data.check_heads(model)
    files = [os.path.join(pictures.path, name + suffix) for name in names]
    if missing := absent(files):
        raise InputError(
            f"{data.place('ann_file').path}: names {len(missing)} of {len(files)} pictures that are not in "
            f"{pictures.path}: {some([os.path.basename(path) for path in missing])}; add them, or set {pictures.keys}"
        )
    notes, counts = [], {}
    if labels is not None and _loads_labels(data):
        need_folder(labels, "label folder")
        maps = [os.path.join(labels.path, name + label_suffix) for name in names]
        if missing := absent(maps):
            raise InputError(
                f"{labels.path}: has no label image for {len(missing)} of {len(maps)} pictures of {pictures.path}: "
                f"{some([os.path.relpath(path, labels.path) for path in missing])}; add them, or set {labels.keys} or "
                f"{data.key}.seg_map_suffix (now {label_suffix!r})"
            )
    else:
        maps = []
    if note := check_pictures(files):
        notes.append(f"pictures: {note}")
    if maps and data.classes is not None:
        counts, more = _count_labels(data, maps, files)
        notes += more
    return Report(where=pictures.path, pictures=len(files), unit="pixels", classes=counts, notes=notes)


def _picture_names(data: Data, folder: Place, suffix: str) -> list[str]:
    """Names of the pictures, relative to the folder and without suffix: from `ann_file` if there is one, or all."""
    place = data.place("ann_file")
    if data.default("ann_file") and not os.path.isdir(place.path):
        need_file(place, "list of pictures")
        names = [line.strip() for line in Path(place.path).read_text(encoding="utf-8").splitlines()]
        if not names:
            raise InputError(f"{place.path}: names no pictures; expected a name a line; set {place.keys}")
        return names
    names = sorted(
        os.path.relpath(os.path.join(where, name), folder.path).removesuffix(suffix)
        for where, _, files in os.walk(folder.path)
        for name in files
        if name.endswith(suffix) and not name.startswith(".")
    )
    if not names:
        raise InputError(f"{folder.path}: no pictures *{suffix} in it; set {folder.keys} or {data.key}.img_suffix")
    return names


def _loads_labels(data: Data) -> bool:
    """Whether the pipeline reads label images by mmseg's or mmdet's `LoadAnnotations`."""
    steps = [step.get("type") for step in data.config.get("pipeline") or () if isinstance(step, Mapping)]
    return any(isinstance(kind, str) and kind.split(".")[-1] == "LoadAnnotations" for kind in steps)


def _count_labels(data: Data, maps: list[str], files: list[str]) -> tuple[dict[str, int], list[str]]:
    """Pixels a class.

    Raises:
        InputError: a label image that does not fit its picture; values that are no class; nothing but 'ignore'.
    """
    results, note = look_at(maps, lambda index: read_labels(maps[index], files[index]))
    if wrong := sorted((result.path, result.wrong) for result in results if result.wrong is not None):
        raise InputError(f"{wrong[0][0]}: {wrong[0][1]} ({len(wrong)} of {len(maps)} label images)")
    own = getattr(data.cls, "METAINFO", {}).get("classes")
    stored = tuple(own) if own is not None else data.classes  # a choice of classes is mapped after reading
    reduced = bool(data.default("reduce_zero_label"))
    ignored = {255, data.default("ignore_index")} | ({0} if reduced else set())
    values: Counter[int] = Counter()
    for result in results:
        values.update(result.counts)
    outside = sorted(value for value in values if value not in ignored and not 0 <= value - reduced < len(stored))
    if outside:
        first = min(result.path for result in results if outside[0] in result.counts)
        zero = (
            ""
            if reduced
            else (f"; if 0 means 'no class' there, set {data.key}.reduce_zero_label=True" * (outside == [len(stored)]))
        )
        raise InputError(
            f"{first}: has the label {outside[0]}, and the {len(stored)} classes of {data.classes_from} have the "
            f"labels {int(reduced)} to {len(stored) - 1 + reduced}, 255 for 'ignore' (reduce_zero_label={reduced}; "
            f"labels found outside: {some(outside, 5)}): correct the label images, or the classes{zero}"
        )
    counts = dict.fromkeys(data.classes, 0)
    for value, number in values.items():
        if value not in ignored and stored[value - reduced] in counts:
            counts[stored[value - reduced]] += number
    if not sum(counts.values()):
        raise InputError(
            f"{os.path.dirname(maps[0])}: every pixel looked at is 'ignore' or of no class: nothing to learn from; "
            f"correct the label images, or set {data.key}.metainfo.classes or {data.key}.reduce_zero_label "
            f"(now {reduced})"
        )
    notes = [f"label images: {note}; the counts are of these"] if note else []
    if empty := [name for name, count in counts.items() if not count]:
        notes.append(f"classes without a pixel: {some(empty, 10)}")
    return counts, notes
