"""Checks of COCO's instances JSON, as mmdet's `CocoDataset` reads it."""

import os
from collections import Counter
from collections.abc import Mapping, Sequence

from ..errors import InputError
from .check_data import Data, Report
from .check_files import Place, absent, check_pictures, need_folder, read_json, some

_FIELDS = dict(
    images=("id", "file_name", "height", "width"),
    annotations=("id", "image_id", "category_id", "bbox", "area"),
    categories=("id", "name"),
)
CORNERS = 0.25  # the share of boxes out of their pictures from which on they are taken for corners


def read_coco(place: Place, without_labels: bool = False) -> dict[str, list[dict]]:
    """COCO's instances JSON with the fields that mmdet reads.

    Raises:
        InputError: missing, not JSON, not this format; annotation ids twice.
    """
    document = read_json(place)
    expected = "expected COCO's instances JSON, an object with the lists images, annotations and categories"
    if not isinstance(document, dict):
        raise InputError(f"{place.path}: holds a {type(document).__name__}; {expected}; set {place.keys}")
    for name, fields in _FIELDS.items():
        if without_labels and name == "annotations" and name not in document:
            document[name] = []
        entries = document.get(name)
        if not isinstance(entries, list):
            raise InputError(f"{place.path}: has no list {name!r}; {expected}; set {place.keys}")
        for i, entry in enumerate(entries):
            lacks = [field for field in fields if field not in entry] if isinstance(entry, dict) else list(fields)
            if not lacks and name == "annotations" and not _is_box(entry["bbox"]):
                raise InputError(
                    f"{place.path}: annotations[{i}] has the bbox {entry['bbox']!r}; expected [x, y, width, height]: "
                    "correct it"
                )
            if lacks:
                raise InputError(f"{place.path}: {name}[{i}] has no {', '.join(lacks)}; {expected}; add it")
    if not document["images"]:
        raise InputError(f"{place.path}: names no pictures; its list 'images' is empty; write the file again")
    for name in _FIELDS:
        if twice := [number for number, n in Counter(entry["id"] for entry in document[name]).items() if n > 1]:
            raise InputError(f"{place.path}: ids in {name!r} occur more than once: {some(twice)}; number them anew")
    return document


def check_coco(data: Data, model: Mapping | None) -> Report:
    place, folder = data.place("ann_file"), data.place("data_prefix", "img")
    if place is None or not data.config.get("ann_file"):
        raise InputError(f"{data.key}: has no ann_file; set {data.key}.ann_file to COCO's instances JSON")
    if folder is None:
        raise InputError(f"{data.key}: data_prefix has no img; set {data.key}.data_prefix.img to the pictures' folder")
    test_mode = bool(data.config.get("test_mode"))
    document = read_coco(place, test_mode)
    counts, notes = _match_categories(data, document, place)
    data.check_heads(model)
    bare = _odd_boxes(document, place)
    if not sum(counts.values()) and not (test_mode and not document["annotations"]):
        raise InputError(
            f"{place.path}: none of its {len(document['annotations'])} annotations is left: none is of the classes of "
            f"{data.classes_from} and has a box inside its picture, at least 1 pixel wide and high, and area > 0; "
            f"correct the file, or set {place.keys}"
        )
    _need_masks(data, document, place)
    notes += bare
    need_folder(folder, "picture folder")
    files = [os.path.join(folder.path, entry["file_name"]) for entry in document["images"]]
    if missing := absent(files):
        raise InputError(
            f"{place.path}: names {len(missing)} of {len(files)} pictures that are not in {folder.path}: "
            f"{some([os.path.relpath(path, folder.path) for path in missing])}; add them, or set {folder.keys}"
        )
    sizes = [(entry["width"], entry["height"]) for entry in document["images"]]
    if note := check_pictures(files, sizes, place.path):
        notes.append(f"pictures: {note}")
    _need_masks_of_the_pictures_size(data, document, place)
    return Report(where=place.path, pictures=len(files), unit="objects", classes=counts, notes=notes)


def _match_categories(data: Data, document: dict, place: Place) -> tuple[dict[str, int], list[str]]:
    """Objects a class, as mmdet will count them; notes on categories that are left out.

    mmdet numbers classes by the order of the file's categories, whatever the order of `classes`.

    Raises:
        InputError: the file has not all the classes, or has them in another order.
    """
    names = [category["name"] for category in document["categories"]]
    classes = data.classes or ()
    advice = f"set {data.key}.metainfo=dict(classes={_tuple_of(names)})"
    if missing := [name for name in classes if name not in names]:
        raise InputError(
            f"{place.path}: has no categories for {some(missing)} of the {len(classes)} classes of "
            f"{data.classes_from}; the file's are {some(names, 10)}: {advice}"
        )
    kept = [name for name in names if name in classes]
    if kept != list(classes):
        raise InputError(
            f"{place.path}: its categories are in another order than {data.classes_from}, or some occur twice, and "
            f"mmdet goes by the file's order: every name would be another class's; "
            f"set {data.key}.metainfo=dict(classes={_tuple_of(kept)})"
        )
    by_id = {category["id"]: category["name"] for category in document["categories"]}
    sizes = {picture["id"]: (picture["width"], picture["height"]) for picture in document["images"]}
    counts = dict.fromkeys(classes, 0)
    for entry in document["annotations"]:
        name = by_id.get(entry["category_id"])
        if name in counts and not entry.get("ignore") and not entry.get("iscrowd"):
            counts[name] += _has_box(entry, sizes.get(entry["image_id"]))
    others = [name for name in names if name not in classes]
    notes = [f"categories of the file that are no classes and are left out: {some(others)}"] if others else []
    if empty := [name for name, count in counts.items() if not count]:
        notes.append(f"classes without an object: {some(empty, 10)}")
    return counts, notes


def _odd_boxes(document: dict, place: Place) -> list[str]:
    """Notes on boxes that mmdet leaves out.

    Raises:
        InputError: annotations of categories or pictures that the file does not have; many boxes reach out of their
            pictures, as corners do that are read as sizes.
    """
    sizes = {picture["id"]: (picture["width"], picture["height"]) for picture in document["images"]}
    known = {category["id"] for category in document["categories"]}
    for field, ids in (("category_id", known), ("image_id", sizes)):
        if lost := [entry["id"] for entry in document["annotations"] if entry[field] not in ids]:
            raise InputError(
                f"{place.path}: {len(lost)} annotations (ids {some(lost)}) have a {field} that is not in the file's "
                f"{'categories' if ids is known else 'images'}, and would be left out: correct them, or take "
                "them out"
            )
    wide = [entry["id"] for entry in document["annotations"] if _reaches_out(entry, sizes[entry["image_id"]])]
    if len(wide) > max(2, CORNERS * len(document["annotations"])):
        raise InputError(
            f"{place.path}: {len(wide)} of {len(document['annotations'])} boxes reach out of their pictures (ids "
            f"{some(wide)}): COCO's bbox is [x, y, width, height], not two corners: write width and height"
        )
    bare = [entry["id"] for entry in document["annotations"] if not _has_box(entry, sizes[entry["image_id"]])]
    return (
        [f"annotations left out, with no area inside of their pictures: {len(bare)} (ids {some(bare)})"] if bare else []
    )


def _reaches_out(entry: Mapping, size: tuple[int, int]) -> bool:
    """By more than a tenth of the picture: less is how objects at the border are often drawn."""
    x, y, w, h = entry["bbox"]
    return x < size[0] and y < size[1] and (x + w > 1.1 * size[0] or y + h > 1.1 * size[1])


def _need_masks(data: Data, document: dict, place: Place) -> None:
    """Ask for masks if the pipeline loads them.

    Raises:
        InputError: an object has none.
    """
    if not _loads_masks(data):
        return
    bare = [
        entry["id"] for entry in document["annotations"] if not entry.get("segmentation") and not entry.get("ignore")
    ]
    if bare:
        raise InputError(
            f"{place.path}: {len(bare)} of {len(document['annotations'])} annotations have no 'segmentation' (ids "
            f"{some(bare)}), and {data.key}.pipeline loads masks (with_mask=True): add them, or take a model without "
            "masks and with_mask=False"
        )


def _need_masks_of_the_pictures_size(data: Data, document: dict, place: Place) -> None:
    """Ask that masks in run lengths have the sizes of their pictures, which are those of the files by now.

    Raises:
        InputError: one has another.
    """
    if not _loads_masks(data):
        return
    sizes = {picture["id"]: [picture["height"], picture["width"]] for picture in document["images"]}
    other = [
        entry["id"]
        for entry in document["annotations"]
        if isinstance(mask := entry.get("segmentation"), Mapping) and mask.get("size") != sizes.get(entry["image_id"])
    ]
    if other:
        raise InputError(
            f"{place.path}: {len(other)} masks in run lengths (ids {some(other)}) have another size than their "
            "pictures: write them anew, size=[height, width]"
        )


def _loads_masks(data: Data) -> bool:
    steps = [step for step in data.config.get("pipeline") or () if isinstance(step, Mapping)]
    return any(step.get("with_mask") for step in steps)


def check_evaluated(evaluated: Place, data: Data) -> None:
    """Ask that the annotation file of a `CocoMetric` can be evaluated by, and has the pictures of the data set.

    Raises:
        InputError: objects without `iscrowd`, which pycocotools asks for; pictures of another data set.
    """
    document = read_coco(evaluated, without_labels=True)
    if bare := [entry["id"] for entry in document["annotations"] if "iscrowd" not in entry]:
        raise InputError(
            f"{evaluated.path}: {len(bare)} annotations have no 'iscrowd' (ids {some(bare)}), and pycocotools, which "
            "evaluates, asks for it: add iscrowd=0"
        )
    place = data.place("ann_file")
    if place is None or os.path.realpath(place.path) == os.path.realpath(evaluated.path):
        return
    known = {entry["id"] for entry in document["images"]}
    shown = [entry["id"] for entry in read_coco(place, without_labels=True)["images"]]
    if others := [number for number in shown if number not in known]:
        raise InputError(
            f"{evaluated.path}: has not {len(others)} of the {len(shown)} pictures of {place.path} (ids "
            f"{some(others)}), which {data.key} predicts on: set {evaluated.keys}={place.path!r}"
        )


def _is_box(box: object) -> bool:
    return isinstance(box, list) and len(box) == 4 and all(isinstance(value, int | float) for value in box)


def _tuple_of(names: Sequence[str]) -> str:
    return repr(tuple(names)) if len(names) <= 20 else f"({', '.join(map(repr, names[:3]))}, ... all {len(names)})"


def _has_box(entry: Mapping, size: tuple[int, int] | None) -> bool:
    """Whether mmdet keeps the annotation: a part of the box is inside of a picture of (width, height)."""
    if size is None:
        return False
    x, y, w, h = entry["bbox"]
    inside = min(x + w, size[0]) > max(x, 0) and min(y + h, size[1]) > max(y, 0)
    return inside and w >= 1 and h >= 1 and entry["area"] > 0
