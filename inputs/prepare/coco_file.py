"""COCO's instances JSON, picture by picture."""

import json
import os
import random
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from ...errors import InputError
from ..image_folder import SUFFIXES


class CocoFile:
    """Collects pictures and objects; `write` numbers and writes them.

    Args:
        classes: names in the order of their ids, which count from 1; None takes them as they come, sorted at the end.
    """

    def __init__(self, classes: Sequence[str] | None = None) -> None:
        self.classes = None if classes is None else list(classes)
        self.pictures: list[tuple[str, int, int, list[dict[str, Any]]]] = []

    def add(self, name: str, size: tuple[int, int], objects: Sequence[dict[str, Any]]) -> None:
        """A picture: its path relative to the pictures' folder, (width, height), and objects of `box` and `polygon`.

        Raises:
            InputError: a class that is not one of the list.
        """
        if self.classes is not None:
            for entry in objects:
                if entry["name"] not in self.classes:
                    raise InputError(
                        f"{name}: class {entry['name']!r} is none of {', '.join(self.classes)}: correct the "
                        "annotation, or give --classes with it"
                    )
        self.pictures.append((Path(name).as_posix(), *size, list(objects)))

    def names(self) -> list[str]:
        """The classes."""
        found = {entry["name"] for *_, objects in self.pictures for entry in objects}
        return sorted(found) if self.classes is None else self.classes

    def counts(self) -> Counter[str]:
        """Objects a class."""
        return Counter(entry["name"] for *_, objects in self.pictures for entry in objects)

    def write(self, path: str | os.PathLike, classes: Sequence[str] | None = None) -> None:
        """Write the JSON; `classes` are those of all splits together, so that a number means one class in each."""
        ids = {name: number for number, name in enumerate(classes or self.names(), 1)}
        images, annotations = [], []
        for number, (name, width, height, objects) in enumerate(self.pictures, 1):
            images.append(dict(id=number, file_name=name, width=width, height=height))
            for entry in objects:
                body = {key: value for key, value in entry.items() if key != "name"}
                fixed = dict(id=len(annotations) + 1, image_id=number, category_id=ids[entry["name"]], iscrowd=0)
                annotations.append(fixed | body)
        categories = [dict(id=number, name=name) for name, number in ids.items()]
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps(dict(images=images, annotations=annotations, categories=categories))
        Path(path).write_text(text, encoding="utf-8")

    def split(self, share: float, seed: int) -> dict[str, "CocoFile"]:
        """Random parts `train` and `val`, of which `val` has `share` of the pictures; all in `train` if it is 0."""
        order = sorted(self.pictures)
        random.Random(seed).shuffle(order)
        held = round(share * len(order))
        parts = {"train": order[held:], "val": order[:held]} if held else {"train": order}
        made = {}
        for name, pictures in parts.items():
            made[name] = CocoFile(self.classes)
            made[name].pictures = sorted(pictures)
        return made


def box(name: str, x: float, y: float, width: float, height: float) -> dict[str, Any]:
    """An object by its box, in pixels: left, top, width, height."""
    return dict(name=name, bbox=[x, y, width, height], area=width * height, segmentation=[])


def polygon(name: str, points: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """An object by the corners of its outline, in pixels; its area is the outline's (shoelace formula)."""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    twice = sum(x * ys[i - 1] - xs[i - 1] * y for i, (x, y) in enumerate(points))
    found = box(name, min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys))
    return found | dict(area=abs(twice) / 2, segmentation=[[float(value) for point in points for value in point]])


def size_of(path: str | os.PathLike) -> tuple[int, int]:
    """(width, height) of a picture.

    Raises:
        InputError: it is missing or none.
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such picture; add it, or take its annotation away") from error
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"{path}: cannot be decoded ({error}); replace it, or take its annotation away") from error


def find_picture(folder: str | os.PathLike, stem: str) -> Path:
    """The picture of that name with any suffix.

    Raises:
        InputError: there is none.
    """
    for suffix in (*SUFFIXES, *(suffix.upper() for suffix in SUFFIXES)):
        if (path := Path(folder, stem + suffix)).is_file():
            return path
    raise InputError(f"{Path(folder, stem)}: no picture of that name ({', '.join(SUFFIXES)}); add it")


def write_splits(parts: dict[str, CocoFile], folder: str | os.PathLike) -> list[str]:
    """Write `annotations/<split>.json` of each part with the classes of all; lines that say what was written.

    Raises:
        InputError: there are no pictures.
    """
    if not any(part.pictures for part in parts.values()):
        raise InputError("no annotated pictures were found")
    given = next(iter(parts.values())).classes
    names = given or sorted({name for part in parts.values() for name in part.names()})
    lines = []
    for split, part in parts.items():
        path = Path(folder, "annotations", f"{split}.json")
        part.write(path, names)
        counts = part.counts()
        lines.append(f"{path}: {len(part.pictures):,} pictures, {sum(counts.values()):,} objects")
        lines += [f"  {name}: {counts[name]:,}" for name in names]
    return lines
