"""Boxes in a CSV table, a row each, to COCO."""

import csv
from collections.abc import Sequence
from pathlib import Path

from ...errors import InputError
from ..watched import watched
from .coco_file import CocoFile, box, size_of

COLUMNS = {  # what tables call them
    "picture": ("filename", "file_name", "image", "image_path", "path", "image_id"),
    "name": ("class", "label", "name", "category"),
    "left": ("xmin", "x_min", "x1", "left"),
    "top": ("ymin", "y_min", "y1", "top"),
    "right": ("xmax", "x_max", "x2", "right"),
    "bottom": ("ymax", "y_max", "y2", "bottom"),
}


def from_csv(source: str, classes: Sequence[str] | None, share: float, seed: int) -> dict[str, CocoFile]:
    """A table with a header: picture, class, left, top, right, bottom in pixels, under the names of `COLUMNS`.

    Pictures are relative to the table's folder. A row with an empty class is a picture without objects.

    Raises:
        InputError: a column is missing; a row cannot be read, by file and line; a picture is missing.
    """
    table, part = Path(source), CocoFile(classes)
    if not table.is_file():
        raise InputError(f"{table}: no such table; give the CSV file itself, with its pictures beside it")
    rows: dict[str, list[dict]] = {}
    with table.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        given = {(name or "").strip().lower(): name for name in reader.fieldnames or ()}
        columns = {}
        for key, names in COLUMNS.items():
            found = [given[name] for name in names if name in given]
            if not found:
                raise InputError(f"{table}: has no column {' or '.join(names)}; it has {', '.join(given) or 'none'}")
            columns[key] = found[0]
        for row in reader:
            picture = row[columns["picture"]].strip()
            objects = rows.setdefault(picture, [])
            if not (row[columns["name"]] or "").strip():
                continue
            try:
                x0, y0, x1, y1 = (float(row[columns[key]]) for key in ("left", "top", "right", "bottom"))
            except (TypeError, ValueError) as error:
                raise InputError(f"{table}:{reader.line_num}: the box is not of four numbers: {error}") from error
            if x1 <= x0 or y1 <= y0:
                raise InputError(f"{table}:{reader.line_num}: box {x0:g}, {y0:g}, {x1:g}, {y1:g}: no width or height")
            objects.append(box(row[columns["name"]].strip(), x0, y0, x1 - x0, y1 - y0))
    for picture, objects in watched(rows.items(), "pictures"):
        part.add(picture, size_of(table.parent / picture), objects)
    if not part.pictures:
        raise InputError(f"{table}: has no rows")
    return part.split(share, seed)
