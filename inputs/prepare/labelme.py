"""LabelMe's JSON, a file a picture, to COCO."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError
from ..watched import watched
from .coco_file import CocoFile, box, polygon, size_of

CORNERS = 64  # of the outline of a circle


def from_labelme(source: str, classes: Sequence[str] | None, share: float, seed: int) -> dict[str, CocoFile]:
    """Polygons, rectangles and circles; shapes of one label and `group_id` in a picture are one object.

    Raises:
        InputError: no annotations; one that cannot be read; a shape without an area (line, point); a picture that is
            missing or of another size than its annotation says.
    """
    root, part = Path(source), CocoFile(classes)
    for path in watched(sorted(root.rglob("*.json")), "files"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InputError(f"{path}: not JSON: {error}; replace it") from error
        if not isinstance(document, dict) or "shapes" not in document or "imagePath" not in document:
            raise InputError(f"{path}: is not LabelMe's: it has no `shapes` and `imagePath`; take it out of {root}")
        # Windows writes its own separators.
        picture = path.parent / document["imagePath"].replace("\\", "/")
        size = size_of(picture)
        noted = (document.get("imageWidth", size[0]), document.get("imageHeight", size[1]))
        if noted not in ((None, None), size):
            raise InputError(f"{path}: was drawn on {noted[0]} x {noted[1]}, {picture} is {size[0]} x {size[1]}")
        groups: dict[Any, list[dict[str, Any]]] = {}
        for index, shape in enumerate(document["shapes"]):
            group = shape.get("group_id")
            key = (shape["label"], group) if group is not None else index
            groups.setdefault(key, []).append(_shape(shape, path))
        part.add(str(picture.resolve().relative_to(root.resolve())), size, [_join(group) for group in groups.values()])
    if not part.pictures:
        raise InputError(f"{root}: no *.json in it")
    return part.split(share, seed)


def _shape(shape: dict[str, Any], path: Path) -> dict[str, Any]:
    name, kind = shape["label"], shape.get("shape_type", "polygon")
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if kind == "rectangle" and len(points) == 2:
        (x0, y0), (x1, y1) = points
        x, y, width, height = min(x0, x1), min(y0, y1), abs(x1 - x0), abs(y1 - y0)
        corners = [x, y, x + width, y, x + width, y + height, x, y + height]
        return box(name, x, y, width, height) | dict(segmentation=[corners])
    if kind == "circle" and len(points) == 2:
        (x, y), edge = points
        radius = math.dist((x, y), edge)
        angles = [2 * math.pi * number / CORNERS for number in range(CORNERS)]
        return polygon(name, [(x + radius * math.cos(a), y + radius * math.sin(a)) for a in angles])
    if kind == "polygon" and len(points) >= 3:
        return polygon(name, points)
    raise InputError(
        f"{path}: a {kind} of {len(points)} points, label {name!r}, has no area: draw a polygon, rectangle or circle"
    )


def _join(parts: list[dict[str, Any]]) -> dict[str, Any]:
    boxes = [part["bbox"] for part in parts]
    x, y = min(b[0] for b in boxes), min(b[1] for b in boxes)
    right, bottom = max(b[0] + b[2] for b in boxes), max(b[1] + b[3] for b in boxes)
    return parts[0] | dict(
        bbox=[x, y, right - x, bottom - y],
        area=sum(part["area"] for part in parts),
        segmentation=[outline for part in parts for outline in part["segmentation"]],
    )
