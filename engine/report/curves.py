"""Precision over recall, and average precision, a class."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, precision_recall_curve

from .matching import IGNORED, RIGHT

RECALLS = np.linspace(0, 1, 101)


@dataclass
class ClassCurve:
    """A class: its name, how often it occurs, AP, what `more` is asked for, precision (101,) at `RECALLS`.

    Precision is the highest at that recall or beyond it, as COCO draws it; 0 where the recall is not reached.
    """

    name: str
    occurs: int
    ap: float
    precision: NDArray[np.float64]
    more: dict[str, float]


def highest_beyond(recall: NDArray[np.float64], precision: NDArray[np.float64]) -> NDArray[np.float64]:
    """Precision (101,) at `RECALLS` from points with rising recall (N,)."""
    envelope = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, RECALLS, side="left")
    return np.where(places < len(recall), np.append(envelope, 0)[places], 0.0)


def of_scores(name: str, scores: NDArray, truth: NDArray[np.bool_], weights: NDArray | None = None) -> ClassCurve:
    """Of pictures that are scored (N,) and are of the class or not (N,); AP is scikit-learn's.

    `weights`: for how many pictures each stands, (N,).
    """
    occurs = int(truth.sum() if weights is None else weights[truth].sum())
    if not occurs:
        return ClassCurve(name, 0, float("nan"), np.full(len(RECALLS), np.nan), {})
    precision, recall, _ = precision_recall_curve(truth, scores, sample_weight=weights)
    # scikit-learn's recall falls, and its last point, precision 1 at recall 0, is drawn from no picture.
    curve = highest_beyond(recall[-2::-1], precision[-2::-1])
    return ClassCurve(name, occurs, float(average_precision_score(truth, scores, sample_weight=weights)), curve, {})


def of_matches(name: str, scores: NDArray, results: NDArray[np.int8], objects: int) -> ClassCurve:
    """Of detections of a class, COCO's: AP is the mean over T thresholds of IoU, the curve is at the first of them.

    Args:
        scores: (N,) in the order of the pictures.
        results: (T, N) of `match`.
        objects: how many there are to be found, crowds apart.
    """
    if not objects:
        return ClassCurve(name, 0, float("nan"), np.full(len(RECALLS), np.nan), {})
    results = results[:, np.argsort(-scores, kind="stable")]
    curves = []
    for row in results:
        right = np.cumsum(row == RIGHT)
        counted = np.cumsum(row != IGNORED)
        curves.append(highest_beyond(right / objects, right / np.maximum(counted, 1)))
    means = [float(curve.mean()) for curve in curves]
    more = {"AP50": means[0], "AP75": means[5]} if len(means) == 10 else {}
    return ClassCurve(name, objects, float(np.mean(means)), curves[0], more)
