"""PASCAL VOC's XML, also as labelImg and CVAT write it, to COCO."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...errors import InputError
from ..watched import watched
from .coco_file import CocoFile, box, find_picture, size_of


def from_voc(source: str, classes: Sequence[str] | None, share: float, seed: int) -> dict[str, CocoFile]:
    """Annotations of a VOCdevkit (folders VOC2007, VOC2012), or of one folder with `Annotations` and `JPEGImages`.

    A list in `ImageSets/Main` is a split; without lists `share` of the pictures is held out. A box's corners are
    pixels counted from 1, both inside, so that COCO's x is xmin - 1 and its width xmax - xmin + 1. Objects that VOC
    calls difficult become crowds: training leaves them out, evaluation passes them over.

    Raises:
        InputError: no annotations; one that cannot be read; a picture that is missing.
    """
    root = Path(source)
    years = sorted(path for path in root.glob("VOC20[0-9][0-9]") if path.is_dir()) or [root]
    parts: dict[str, CocoFile] = {}
    for year in years:
        if not (year / "Annotations").is_dir():
            raise InputError(f"{year}: has no folder Annotations; give VOCdevkit, or a folder with Annotations in it")
        prefix = f"{year.name.lower()}_" if year != root else ""
        lists = [year / "ImageSets" / "Main" / f"{split}.txt" for split in ("train", "val", "trainval", "test")]
        for path in filter(Path.is_file, lists):
            names = [line.split()[0] for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
            part = parts[prefix + path.stem] = CocoFile(classes)
            for name in watched(names, "files"):
                _add(part, root, year, name)
        if not any(map(Path.is_file, lists)):
            part = CocoFile(classes)
            for path in watched(sorted((year / "Annotations").rglob("*.xml")), "files"):
                _add(part, root, year, path.relative_to(year / "Annotations").with_suffix("").as_posix())
            parts |= {prefix + split: piece for split, piece in part.split(share, seed).items()}
    return parts


def _add(part: CocoFile, root: Path, year: Path, name: str) -> None:
    path = year / "Annotations" / f"{name}.xml"
    try:
        tree = ElementTree.parse(path).getroot()
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such annotation, but a list in ImageSets/Main names it") from error
    except ElementTree.ParseError as error:
        raise InputError(f"{path}: not XML: {error}; replace it") from error
    folder = next((year / kind for kind in ("JPEGImages", "images") if (year / kind).is_dir()), year / "Annotations")
    picture = find_picture(folder, name)
    part.add(str(picture.relative_to(root)), size_of(picture), [_object(entry, path) for entry in tree.iter("object")])


def _object(entry: ElementTree.Element, path: Path) -> dict[str, Any]:
    name, corners = entry.findtext("name"), entry.find("bndbox")
    try:
        x0, y0, x1, y1 = (float(corners.findtext(key)) for key in ("xmin", "ymin", "xmax", "ymax"))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(f"{path}: an object {name!r} has no bndbox of four numbers; correct it") from error
    if not name or x1 < x0 or y1 < y0:
        raise InputError(f"{path}: object {name!r} has the box {x0:g}, {y0:g}, {x1:g}, {y1:g}: right or bottom is less")
    found = box(name.strip(), x0 - 1, y0 - 1, x1 - x0 + 1, y1 - y0 + 1)
    return found | dict(iscrowd=1) if (entry.findtext("difficult") or "0").strip() == "1" else found
