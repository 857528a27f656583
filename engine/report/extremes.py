"""The best and the worst pictures of an evaluation, with what is needed to draw them."""

import base64
import heapq
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ..predictions import Detection, Segmentation

KEPT = 6  # of each end
LONG_SIDE = 480  # pixels of label maps that are kept


class Extremes:
    """Keeps the KEPT best and worst by quality; of equals the first."""

    def __init__(self, count: int = KEPT) -> None:
        self.count, self.seen = count, 0
        self._best: list[tuple[float, int, dict]] = []
        self._worst: list[tuple[float, int, dict]] = []

    def add(self, quality: float, picture: Callable[[], dict[str, Any]]) -> None:
        """`picture` is called where it is among them: what it gives has to be JSON."""
        self.seen += 1
        made: dict[str, Any] | None = None
        for heap, value in ((self._best, quality), (self._worst, -quality)):
            if len(heap) == self.count and value <= heap[0][0]:
                continue
            if made is None:
                made = picture() | {"quality": round(float(quality), 5)}
            entry = (value, -self.seen, made)
            if len(heap) == self.count:
                heapq.heapreplace(heap, entry)
            else:
                heapq.heappush(heap, entry)

    def record(self) -> dict[str, list[dict[str, Any]]]:
        """`best` and `worst`, each from its end inwards."""
        return {
            name: [made for _, _, made in sorted(heap, key=lambda entry: entry[:2], reverse=True)]
            for name, heap in (("best", self._best), ("worst", self._worst))
        }


def merged(records: list[dict[str, list[dict[str, Any]]]], count: int = KEPT) -> dict[str, list[dict[str, Any]]]:
    """Those of several processes together; a picture among the best is not among the worst, too."""
    best = sorted((entry for record in records for entry in record["best"]), key=lambda e: -e["quality"])[:count]
    worst = sorted((entry for record in records for entry in record["worst"]), key=lambda e: e["quality"])[:count]
    # Of a handful of pictures all would be both.
    while shared := {entry["path"] for entry in best} & {entry["path"] for entry in worst}:
        longer = best if len(best) > len(worst) else worst
        longer.remove(next(entry for entry in reversed(longer) if entry["path"] in shared))
    return {"best": best, "worst": worst}


def pack_objects(objects: Detection) -> dict[str, Any]:
    """As JSON, masks as run lengths."""
    packed: dict[str, Any] = {"boxes": np.round(objects.boxes, 2).tolist(), "labels": objects.labels.tolist()}
    if objects.scores is not None:
        packed["scores"] = np.round(objects.scores, 4).tolist()
    if objects.masks is not None and len(objects.masks):
        runs = coco_mask.encode(np.asfortranarray(objects.masks.transpose(1, 2, 0), dtype=np.uint8))
        packed["masks"] = [{"size": list(run["size"]), "counts": run["counts"].decode()} for run in runs]
    return packed


def unpack_objects(packed: dict[str, Any]) -> Detection:
    """What `pack_objects` made; scores are those that it wrote."""
    boxes = np.array(packed["boxes"], np.float32).reshape(-1, 4)
    labels = np.array(packed["labels"], np.int64)
    scores = np.array(packed["scores"], np.float32) if "scores" in packed else None
    masks = None
    if packed.get("masks"):
        masks = np.asarray(coco_mask.decode(packed["masks"])).transpose(2, 0, 1).astype(bool)
    return Detection(boxes, labels, scores, masks)


def pack_labels(labels: NDArray) -> str:
    """A map (H, W) as PNG in base64, made smaller where it is large."""
    height, width = labels.shape
    factor = min(1.0, LONG_SIDE / max(height, width))
    size = max(1, round(width * factor)), max(1, round(height * factor))
    small = cv2.resize(labels.astype(np.uint16), size, interpolation=cv2.INTER_NEAREST)
    kind = np.uint8 if small.max(initial=0) < 256 else np.uint16
    return base64.b64encode(cv2.imencode(".png", small.astype(kind))[1].tobytes()).decode("ascii")


def unpack_labels(packed: str) -> Segmentation:
    """What `pack_labels` made, in the size in which it was kept."""
    data = np.frombuffer(base64.b64decode(packed), np.uint8)
    return Segmentation(cv2.imdecode(data, cv2.IMREAD_UNCHANGED).astype(np.int64))
