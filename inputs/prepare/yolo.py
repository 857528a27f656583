"""YOLO's text files, boxes or outlines in parts of the picture's size, to COCO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from ...errors import InputError
from ..image_folder import SUFFIXES, pictures_of
from ..watched import watched
from .coco_file import CocoFile, box, polygon, size_of

SPLITS = ("train", "val", "valid", "test")


def from_yolo(source: str, classes: Sequence[str] | None, share: float, seed: int) -> dict[str, CocoFile]:
    """Pictures and labels of Ultralytics' layout: `images/train` beside `labels/train`, or `train/images`, or flat.

    Class names are those of `data.yaml` (`names`, a list or a dict by number), of `classes.txt`, or `classes`. A line
    is `class x y w h`, the box's middle and size, or `class x1 y1 x2 y2 x3 y3 ...`, an outline; a picture without a
    text file has no objects.

    Raises:
        InputError: no names; no pictures; a line of another form, by file and number.
    """
    root = Path(source)
    names = list(classes) if classes is not None else _names(root)
    folders = {}
    for split in SPLITS:
        for pictures, labels in ((f"images/{split}", f"labels/{split}"), (f"{split}/images", f"{split}/labels")):
            if (root / pictures).is_dir():
                folders["val" if split == "valid" else split] = (root / pictures, root / labels)
    if folders:
        return {split: _read(root, *pair, names) for split, pair in folders.items()}
    pictures = root / "images" if (root / "images").is_dir() else root
    labels = root / "labels" if (root / "labels").is_dir() else root
    return _read(root, pictures, labels, names).split(share, seed)


def _names(root: Path) -> list[str]:
    for path in (*sorted(root.glob("*.yaml")), *sorted(root.glob("*.yml"))):
        try:
            found = (yaml.safe_load(path.read_text(encoding="utf-8")) or {}).get("names")
        except (yaml.YAMLError, AttributeError) as error:
            raise InputError(f"{path}: cannot be read as data.yaml: {error}") from error
        if isinstance(found, dict):
            found = [found[number] for number in range(len(found))] if set(found) == set(range(len(found))) else None
        if isinstance(found, list) and found:
            return [str(name) for name in found]
    for path in (root / "classes.txt", root / "labels" / "classes.txt"):
        if path.is_file():
            return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    raise InputError(f"{root}: has no data.yaml with `names` and no classes.txt: give --classes")


def _read(root: Path, pictures: Path, labels: Path, names: list[str]) -> CocoFile:
    files = [Path(path) for path in pictures_of(pictures)]
    if not files:
        raise InputError(f"{pictures}: no pictures in it; looked for {', '.join(SUFFIXES)}")
    part = CocoFile(names)
    for path in watched(files, "pictures"):
        size = size_of(path)
        text = labels / path.relative_to(pictures).with_suffix(".txt")
        lines = text.read_text(encoding="utf-8").splitlines() if text.is_file() else []
        objects = [
            _object(line, f"{text}:{number}", names, size) for number, line in enumerate(lines, 1) if line.strip()
        ]
        part.add(str(path.relative_to(root)), size, objects)
    return part


def _object(line: str, where: str, names: list[str], size: tuple[int, int]) -> dict[str, Any]:
    try:
        number, *values = line.split()
        number, values = int(number), [float(value) for value in values]
    except ValueError as error:
        raise InputError(f"{where}: {line!r} is not a class number and numbers: {error}") from error
    if not 0 <= number < len(names):
        raise InputError(f"{where}: class {number}, but there are the {len(names)} names {', '.join(names)}")
    if any(not -0.01 <= value <= 1.01 for value in values):
        raise InputError(f"{where}: {line!r}: coordinates are parts of width and height, 0 to 1: divide pixels by them")
    width, height = size
    if len(values) == 4:
        x, y, w, h = values
        return box(names[number], (x - w / 2) * width, (y - h / 2) * height, w * width, h * height)
    if len(values) >= 6 and len(values) % 2 == 0:
        points = [(x * width, y * height) for x, y in zip(values[::2], values[1::2], strict=True)]
        return polygon(names[number], points)
    raise InputError(f"{where}: {len(values)} numbers after the class; a box has 4, an outline 6 or more in pairs")
