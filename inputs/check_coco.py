"""Checks of COCO instances JSON, as mmdet's `CocoDataset` reads it."""

import json
import os
from collections import Counter
from typing import Any

from ..errors import InputError
from .check_pictures import look_at, need_files, need_folder, picture_size, remedy, some

_LISTS = {  # list of the file: what each entry needs
    "images": ("id", "file_name", "height", "width"),
    "annotations": ("id", "image_id", "category_id", "bbox", "area"),
    "categories": ("id", "name"),
}


def check_coco(settings: dict[str, Any], key: str, split: str) -> dict[str, Any]:
    """Check one data set.

    Args:
        settings: `ann_file` and `img` (paths, joined to the root), `classes` and `pipeline`.
        key: of the data set in the config, for the advice.
        split: train, val or test.

    Returns:
        A table, see `check_inputs`.

    Raises:
        InputError: what is wrong with it.
    """
    path = settings["ann_file"]
    content = read_coco(path, f"{key}.data_root and {key}.ann_file", evaluated=split != "train")
    need_folder(settings["img"], f"{key}.data_prefix.img")
    classes = list(settings["classes"])
    ids = _match_classes(path, content["categories"], classes, key)
    counts, notes = _count(path, content, ids, key, split)
    if split == "train" and _wants_masks(settings["pipeline"]):
        bare = [a["id"] for a in content["annotations"] if not a.get("segmentation") and not a.get("ignore")]
        if bare:
            raise InputError(
                f"{path}: {len(bare)} annotations have no 'segmentation' (ids {some(bare)}), but the pipeline loads "
                f"masks: add them, or train without: with_mask=False in {key}.pipeline and a model without mask_head"
            )
    files = [os.path.join(settings["img"], image["file_name"]) for image in content["images"]]
    need_files(files, path, f"put them into {settings['img']}, or set {key}.data_prefix.img")

    def look(entry: tuple[str, dict]) -> None:
        size, said = picture_size(entry[0]), (entry[1]["width"], entry[1]["height"])
        if size is not None and size not in (said, said[::-1]):  # turned: EXIF says so, and mmcv turns it back
            raise InputError(
                f"{entry[0]}: {size[0]} x {size[1]} pixels, but {path} says {said[0]} x {said[1]}: "
                "boxes and masks would not fit; was it resized after it was annotated?"
            )

    _, note = look_at(list(zip(files, content["images"], strict=True)), look)
    return dict(pictures=len(files), where=path, classes=counts, unit="objects", notes=notes + ([note] if note else []))


def read_coco(path: str, key: str, evaluated: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Read an annotation file and check that it has the form of COCO instances.

    Args:
        path: of the file.
        key: of the config that names it, for the advice.
        evaluated: whether pycocotools will evaluate by it, which asks for `iscrowd`, too.

    Raises:
        InputError: it is missing, no JSON, or of another format.
    """
    if not os.path.isfile(path):
        raise InputError(f"{path}: no such annotation file; {remedy(path, key)}")
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path}:{error.lineno}: not JSON ({error.msg}, column {error.colno}); was it copied or written whole?"
        ) from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not JSON: not a text file; set {key}") from error
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in _LISTS):
        holds = f"an object with {some(content) or 'nothing'}" if isinstance(content, dict) else type(content).__name__
        raise InputError(
            f"{path}: not in COCO's format: it needs the lists {', '.join(_LISTS)} and holds {holds}; convert it"
        )
    for name, fields in _LISTS.items():
        wanted = (*fields, "iscrowd") if name == "annotations" and evaluated else fields
        for i, entry in enumerate(content[name]):
            if not isinstance(entry, dict) or (lacking := [field for field in wanted if field not in entry]):
                has = "is no object" if not isinstance(entry, dict) else f"has no {', '.join(map(repr, lacking))}"
                raise InputError(f"{path}: not in COCO's format: {name}[{i}] {has}; add it")
        twice = [entry for entry, count in Counter(entry["id"] for entry in content[name]).items() if count > 1]
        if twice:
            raise InputError(f"{path}: {name} share ids ({some(twice)}); give each its own")
    if not content["images"]:
        raise InputError(f"{path}: it lists no pictures; {remedy(path, key)}")
    return content


def _match_classes(path: str, categories: list[dict], classes: list[str], key: str) -> dict[int, str]:
    """Category id to class name, of those that the data set takes.

    Raises:
        InputError: a class is not in the file, or they stand in another order.
    """
    names = [category["name"] for category in categories]
    if missing := [name for name in classes if name not in names]:
        lines = ", ".join(repr(name) for name in names[:20]) + (", ..." if len(names) > 20 else ",")
        raise InputError(
            f"{path}: {len(missing)} of the config's {len(classes)} classes are not among its categories: "
            f"{some(map(repr, missing))}; set {key}.metainfo=dict(classes=({lines}))"
        )
    # mmdet numbers classes in the file's order, whatever the config's: every name in results would be another's.
    order = [name for name in names if name in classes]
    if order != classes:
        i = next(i for i, (a, b) in enumerate(zip(order, classes, strict=False)) if a != b)
        raise InputError(
            f"{path}: its categories stand in another order than the config's classes (number {i}: {order[i]!r} and "
            f"{classes[i]!r}), and mmdet numbers them in the file's: set {key}.metainfo=dict(classes="
            f"({', '.join(map(repr, order[:20]))}{', ...' if len(order) > 20 else ','}))"
        )
    return {category["id"]: category["name"] for category in categories if category["name"] in classes}


def _count(
    path: str, content: dict[str, list[dict]], ids: dict[int, str], key: str, split: str
) -> tuple[dict[str, int], list[str]]:
    """Objects a class, as mmdet counts them, and words about those that it leaves out.

    Raises:
        InputError: none is left.
    """
    sizes = {image["id"]: (image["width"], image["height"]) for image in content["images"]}
    counts = dict.fromkeys(ids.values(), 0)
    strange = elsewhere = small = 0
    for entry in content["annotations"]:
        if entry["image_id"] not in sizes:
            elsewhere += 1
            continue
        if entry["category_id"] not in ids:
            strange += 1
            continue
        x, y, w, h = entry["bbox"]
        width, height = sizes[entry["image_id"]]
        inside = min(x + w, width) > max(x, 0) and min(y + h, height) > max(y, 0)
        if w < 1 or h < 1 or entry["area"] <= 0 or not inside:
            small += 1
            continue
        counts[ids[entry["category_id"]]] += 1
    total = len(content["annotations"])
    reasons = [
        f"{strange} are of categories that are not among the config's classes" if strange else "",
        f"{elsewhere} belong to pictures that the file does not list" if elsewhere else "",
        f"{small} have boxes less than a pixel wide, without area or outside their picture" if small else "",
    ]
    notes = [f"of {total} annotations {reason}, and are left out" for reason in reasons if reason]
    if not sum(counts.values()) and (total or split != "test"):  # a test file without answers is in order
        why = "; ".join(reason for reason in reasons if reason) or "it lists none"
        raise InputError(
            f"{path}: no annotation is left to {'train on' if split == 'train' else 'evaluate by'}: {why}. "
            f"Check category_id, image_id and bbox ([x, y, width, height], in pixels), and {key}.metainfo"
        )
    if empty := [name for name, count in counts.items() if not count]:
        notes.append(f"no object of class {some(map(repr, empty))}")
    return counts, notes


def _wants_masks(pipeline: list[dict[str, Any]]) -> bool:
    return any(isinstance(step, dict) and step.get("with_mask") for step in pipeline)
