"""Which detections of a picture are right: COCO's matching, at several thresholds of IoU at a time."""

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ..predictions import Detection

THRESHOLDS = np.linspace(0.5, 0.95, 10)  # COCO's
RIGHT, FALSE, IGNORED = 1, 0, -1


def overlaps(found: NDArray, truth: NDArray, crowd: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU (N, G) of boxes x1, y1, x2, y2, (N, 4) and (G, 4); with a crowd: the share of the detection inside it."""
    if not len(found) or not len(truth):
        return np.zeros((len(found), len(truth)))
    exact = (np.asarray(box, np.float64) for box in (found, truth))
    boxes = [np.concatenate([box[:, :2], box[:, 2:] - box[:, :2]], axis=1) for box in exact]
    return np.asarray(coco_mask.iou(*boxes, crowd.astype(np.uint8)))


def match(
    found: Detection, truth: Detection, crowd: NDArray[np.bool_], thresholds: NDArray[np.float64] = THRESHOLDS
) -> NDArray[np.int8]:
    """(T, N): RIGHT, FALSE or IGNORED, for each of T thresholds and N detections, as pycocotools decides.

    The strongest detection takes first: the free object of its class with the highest IoU, of those that reach the
    threshold; a crowd, which takes any number and makes them ignored, only where there is none.

    Args:
        found: best first.
        truth: G objects.
        crowd: (G,), regions of many objects.
    """
    results = np.full((len(thresholds), len(found.labels)), FALSE, np.int8)
    iou = overlaps(found.boxes, truth.boxes, crowd)
    iou[found.labels[:, None] != truth.labels[None]] = 0
    limits = np.minimum(thresholds, 1 - 1e-10)
    free = np.tile(~crowd, (len(thresholds), 1))
    best = iou.max(axis=1, initial=0)
    for n in np.flatnonzero(best >= limits.min()):  # all others are false
        values = np.where(free, iou[n], 0)
        # Of equals COCO takes the last.
        taken = values.shape[1] - 1 - values[:, ::-1].argmax(axis=1)
        rows = np.flatnonzero(values.max(axis=1) >= limits)
        results[rows, n] = RIGHT
        free[rows, taken[rows]] = False
        if crowd.any():
            inside = iou[n, crowd].max() >= limits
            results[inside & (results[:, n] == FALSE), n] = IGNORED
    return results


def pair(
    found: Detection, truth: Detection, threshold: float = 0.5, one_class: bool = False
) -> list[tuple[int, int, float]]:
    """Detections and objects that belong together, one to one: (detection, object, IoU), the highest IoU first.

    Args:
        threshold: of IoU, at least.
        one_class: only of one class; else whatever their classes, as a confusion matrix wants it.
    """
    iou = overlaps(found.boxes, truth.boxes, np.zeros(len(truth.labels), bool))
    if one_class:
        iou[found.labels[:, None] != truth.labels[None]] = 0
    rows, columns = np.nonzero(iou >= threshold)
    pairs, used, taken = [], set(), set()
    for place in np.argsort(-iou[rows, columns], kind="stable"):
        n, g = int(rows[place]), int(columns[place])
        if n not in used and g not in taken:
            used.add(n)
            taken.add(g)
            pairs.append((n, g, float(iou[n, g])))
    return pairs


def quality(found: Detection, truth: Detection) -> tuple[float, int]:
    """Panoptic quality of a picture's boxes (arXiv:1801.00868), all classes together, and the number of right ones.

    The sum of IoU over pairs of one class, over pairs + half the detections and half the objects without one: 1 is
    perfect, 0 nothing found.
    """
    right = [iou for _, _, iou in pair(found, truth, one_class=True)]
    alone = len(found.labels) + len(truth.labels) - 2 * len(right)
    return (sum(right) / (len(right) + alone / 2) if right or alone else 1.0), len(right)
