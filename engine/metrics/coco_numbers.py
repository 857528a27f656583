"""COCO's numbers and tables from arrays of precision and recall, whichever library made them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

LETTERS = {"small": "s", "medium": "m", "large": "l"}
FREQUENCIES = ("r", "c", "f")  # LVIS: rare, common, frequent


@dataclass
class Evaluated:
    """What COCO's evaluation accumulates: T thresholds, R recalls, K classes, A areas, M limits of detections.

    precision (T, R, K, A, M) and recall (T, K, A, M), -1 where nothing is to be found; the thresholds (T,); names of
    the areas, 'all' first; the limits, ascending; names of the classes; LVIS's frequency a class, None elsewhere.
    """

    precision: NDArray[np.float64]
    recall: NDArray[np.float64]
    thresholds: NDArray[np.float64]
    areas: list[str]
    limits: list[int]
    classes: list[str]
    frequencies: list[str] | None = None

    def ap(
        self, threshold: float | None = None, area: str = "all", classes: int | NDArray | slice = slice(None)
    ) -> float:
        """Mean precision with the most detections, -1 if there is none; over all thresholds if None is given."""
        values = self.precision[:, :, :, self.areas.index(area), -1]
        return _mean(values[self._rows(threshold)][:, :, classes])

    def ar(self, threshold: float | None = None, area: str = "all", limit: int = -1) -> float:
        """Mean of the highest recalls, as `ap`; `limit` is a place in `limits`."""
        return _mean(self.recall[self._rows(threshold)][:, :, self.areas.index(area), limit])

    def by_class(self) -> dict[str, float]:
        """AP by the names of the classes."""
        return {name: self.ap(classes=k) for k, name in enumerate(self.classes)}

    def _rows(self, threshold: float | None) -> NDArray[np.bool_]:
        return np.isclose(self.thresholds, threshold) if threshold else np.ones(len(self.thresholds), bool)


def _mean(values: NDArray[np.float64]) -> float:
    there = values[values > -1]
    return float(there.mean()) if there.size else -1.0


def numbers(found: Evaluated) -> dict[str, float]:
    """COCO's twelve numbers by mmdet's names, in COCO's order: `mAP`, ..., `AR_l@100`. Of keypoints there are ten."""
    sizes = [area for area in found.areas if area != "all"]
    keypoints = len(sizes) == 2  # no small ones
    scores = {"mAP": found.ap(), "mAP_50": found.ap(0.5), "mAP_75": found.ap(0.75)}
    scores |= {f"mAP_{LETTERS[area]}": found.ap(area=area) for area in sizes}
    last = found.limits[-1]
    if keypoints:
        scores |= {"AR": found.ar(), "AR_50": found.ar(0.5), "AR_75": found.ar(0.75)}
        return scores | {f"AR_{LETTERS[area]}": found.ar(area=area) for area in sizes}
    scores |= {f"AR@{limit}": found.ar(limit=place) for place, limit in enumerate(found.limits)}
    scores |= {f"AR_{LETTERS[area]}@{last}": found.ar(area=area) for area in sizes}
    if found.frequencies is not None:
        kinds = np.array(found.frequencies)
        scores |= {f"mAP_{kind}": found.ap(classes=np.flatnonzero(kinds == kind)) for kind in FREQUENCIES}
    return scores


def size_table(kind: str, found: Evaluated) -> Table:
    """A row a size: precision, that at 0.5 and 0.75, recall."""
    table = Table("size", "AP", "AP50", "AP75", f"AR@{found.limits[-1]}", title=f"{kind} by size")
    for area in found.areas:
        values = found.ap(area=area), found.ap(0.5, area), found.ap(0.75, area), found.ar(area=area)
        table.add_row(area, *map(_text, values))
    return table


def class_table(kind: str, found: Evaluated) -> Table:
    """A row a class: precision, that at 0.5 and 0.75, and of each size."""
    sizes = [area for area in found.areas if area != "all"]
    table = Table("class", "AP", "AP50", "AP75", *sizes, title=f"{kind} by class")
    for k, name in enumerate(found.classes):
        values = [found.ap(classes=k), found.ap(0.5, classes=k), found.ap(0.75, classes=k)]
        table.add_row(name, *map(_text, values + [found.ap(area=area, classes=k) for area in sizes]))
    return table


def _text(value: float) -> str:
    return "-" if value < 0 else f"{value:.4f}"
