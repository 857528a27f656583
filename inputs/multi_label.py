"""Pictures with several classes each, or none, from an annotation file."""

import csv
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from ..registry import DATASETS
from .class_pictures import ClassPictures
from .image_folder import read_classes

WANTED = 'JSON: {"a.jpg": ["cat", "dog"], "b.jpg": []}, or COCO\'s instances; CSV: lines of picture,cat;dog'


def read_label_sets(path: str | os.PathLike) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    """The classes of each picture, and all class names in order: COCO's own order, sorted as text in other files.

    Args:
        path: `.json`: an object of picture: list of names, or COCO's `instances_*.json`, in which a picture has the
            classes of its objects, crowds too; any other ending: CSV, picture and names, which `;` keeps apart. A first
            line `picture,labels` is skipped.

    Raises:
        InputError: there is no such file; it holds something else; a picture twice in a CSV; no picture.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"{path}: no such file; it should name the classes of each picture: {WANTED}")
    text = path.read_text(encoding="utf-8")
    if path.suffix.lower() == ".json":
        try:
            content = json.loads(text)
        except json.JSONDecodeError as error:
            raise InputError(f"{path}: not JSON: {error}") from error
        if isinstance(content, dict) and {"images", "annotations", "categories"} <= content.keys():
            return _from_coco(path, content)
        whole = isinstance(content, dict) and all(
            isinstance(names, list) and all(isinstance(name, str) for name in names) for names in content.values()
        )
        if not whole:
            raise InputError(f"{path}: it wants {WANTED}")
        pairs: Iterable[tuple[str, Sequence[str]]] = content.items()
    else:
        pairs = _from_csv(path, text)
    sets = {picture: tuple(sorted(set(names))) for picture, names in pairs}
    if not sets:
        raise InputError(f"{path}: no pictures in it; it wants {WANTED}")
    return sets, tuple(sorted({name for names in sets.values() for name in names}))


def _from_coco(path: Path, content: Mapping[str, Any]) -> tuple[dict[str, tuple[str, ...]], tuple[str, ...]]:
    try:
        names = {category["id"]: category["name"] for category in content["categories"]}
        files = {image["id"]: image["file_name"] for image in content["images"]}
        found: dict[int, set[str]] = {number: set() for number in files}
        for annotation in content["annotations"]:
            found[annotation["image_id"]].add(names[annotation["category_id"]])
    except (KeyError, TypeError) as error:
        raise InputError(f"{path}: not COCO's instances: {type(error).__name__} {error}") from error
    if not files:
        raise InputError(f"{path}: no pictures in it")
    return {files[number]: tuple(sorted(labels)) for number, labels in found.items()}, tuple(names.values())


def _from_csv(path: Path, text: str) -> Iterable[tuple[str, Sequence[str]]]:
    seen: dict[str, int] = {}
    for number, row in enumerate(csv.reader(text.splitlines()), 1):
        if not row or (number == 1 and [cell.strip() for cell in row] == ["picture", "labels"]):
            continue
        if len(row) != 2:
            raise InputError(f"{path}: line {number} has {len(row)} cells; it wants two, as a.jpg,cat;dog")
        picture = row[0].strip()
        if picture in seen:
            raise InputError(f"{path}: {picture} is in lines {seen[picture]} and {number}; give it all classes in one")
        seen[picture] = number
        yield picture, [name.strip() for name in row[1].split(";") if name.strip()]


@DATASETS.register_module()
class MultiLabelImages(ClassPictures):
    """Pictures of a folder with the classes that a file gives them; the pipeline starts with `LoadPicture`.

    Args:
        ann_file: see `read_label_sets`; relative to `data_root`.
        *args, **kwargs: see `ClassPictures`; the prefix is the folder of the pictures. Without `classes` they are the
            file's; a validation file in which a class is missing needs them (COCO's does not, it lists its categories).

    A sample of the list: `img_path`, `gt_label`, a list of the classes counted from 0, and `gt_score`, (num_classes,)
    uint8, 1 at them.

    Raises:
        InputError: files are missing or hold something else; a class that is not among `classes`.
    """

    def __init__(self, ann_file: str, data_root: str = "", *args: Any, **kwargs: Any) -> None:
        self.source = os.path.join(data_root, ann_file)
        self.sets, self._names = read_label_sets(self.source)
        super().__init__(data_root, *args, ann_file=ann_file, **kwargs)

    def find_classes(self, where: str, given: str | Sequence[str] | None) -> tuple[str, ...]:
        """Those given, or the file's."""
        classes = self._names if given is None else read_classes(given)
        if strangers := sorted(set(self._names) - set(classes)):
            raise InputError(f"{self.source}: class {strangers[0]!r} is not in classes {classes}")
        return classes

    def load_data_list(self) -> list[dict]:
        """All pictures, in the file's order."""
        number = {name: label for label, name in enumerate(self.metainfo["classes"])}
        samples = []
        for picture, names in self.sets.items():
            path = os.path.join(self.data_prefix["img_path"], picture)
            if not os.path.isfile(path):
                raise InputError(f"{path}: no such picture, but {self.ann_file} names it; set data_prefix")
            labels = sorted(number[name] for name in names)
            score = np.zeros(len(number), np.uint8)
            score[labels] = 1
            samples.append(dict(img_path=path, gt_label=labels, gt_score=score))
        return samples

    def get_cat_ids(self, idx: int) -> list[int]:
        """The classes of a sample, as `ClassBalancedDataset` asks for them."""
        return list(self.get_data_info(idx)["gt_label"])
