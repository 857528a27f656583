"""What an evaluation shows beyond its scores, taken picture by picture: bounded in memory, whatever the metric."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ...errors import InputError
from ..metrics.segmentation import confusion
from ..predictions import Detection, prediction_of
from .extremes import Extremes, pack_labels, pack_objects
from .matching import IGNORED, RIGHT, THRESHOLDS, match, pair, quality

BEST_CLASSES = 20  # of a classification
OBJECTS = 300  # detections of a picture that count
SHOWN = 0.3  # the score from which detections are drawn and enter the confusion matrix
# Values that one process keeps of a data set; of a larger one every second picture counts, or every third, ...
VALUES = 4_000_000

Info = Callable[[], Mapping[str, Any]]  # what the data set knows of the picture


class Collector:
    """One process's part. `kind` says what `arrays` are."""

    kind = ""

    def __init__(self, classes: int, pictures: int) -> None:
        self.classes, self.extremes = classes, Extremes()
        self.every = max(1, math.ceil(pictures * self.values() / VALUES))

    def values(self) -> int:
        """That are kept of a picture."""
        return 0

    def add(self, sample: BaseDataElement, info: Info) -> None:
        """Take what the model says of a picture, and the truth from the sample or, asked for, from the data set."""
        raise NotImplementedError(f"{type(self).__name__} does not define add")

    def arrays(self) -> dict[str, NDArray]:
        """What is kept."""
        raise NotImplementedError(f"{type(self).__name__} does not define arrays")


class ClassCollector(Collector):
    """A class a picture: `gt` (N,); `labels`, `scores` (N, M): the M best classes, best first."""

    kind = "classes"

    def __init__(self, classes: int, pictures: int) -> None:
        self.rows: list[tuple[int, NDArray, NDArray]] = []
        super().__init__(classes, pictures)

    def values(self) -> int:
        return 2 * min(self.classes, BEST_CLASSES)

    def add(self, sample: BaseDataElement, info: Info) -> None:
        score, gt = sample.pred_score.detach().float().cpu(), int(sample.gt_label)
        best = score.topk(min(len(score), BEST_CLASSES))
        self.rows.append((gt, best.indices.numpy().astype(np.int32), best.values.numpy()))
        top = best.indices[:3].tolist()
        self.extremes.add(
            float(score[gt]) - float(int(score.argmax()) != gt),  # wrong ones below all right ones
            lambda: {
                "path": str(sample.get("img_path") or ""),
                "truth": [gt],
                "found": [[label, round(float(score[label]), 4)] for label in top],
            },
        )

    def arrays(self) -> dict[str, NDArray]:
        gt, labels, scores = zip(*self.rows, strict=True)
        return {"gt": np.array(gt, np.int32), "labels": np.stack(labels), "scores": np.stack(scores)}


class LabelsCollector(Collector):
    """Several classes a picture: `scores` (N, K) and `truth` (N, K), bool."""

    kind = "labels"

    def __init__(self, classes: int, pictures: int) -> None:
        self.rows: list[tuple[NDArray, NDArray]] = []
        super().__init__(classes, pictures)

    def values(self) -> int:
        return self.classes

    def add(self, sample: BaseDataElement, info: Info) -> None:
        score = sample.pred_score.detach().float().cpu().numpy()
        truth = (sample.gt_score >= 0.5).cpu().numpy()
        self.rows.append((score, truth))
        safe = np.clip(score, 1e-7, 1 - 1e-7)
        likelihood = float(np.where(truth, np.log(safe), np.log1p(-safe)).mean())
        found = sample.pred_labels.tolist() if "pred_labels" in sample else np.flatnonzero(score >= 0.5).tolist()
        self.extremes.add(
            math.exp(likelihood),
            lambda: {
                "path": str(sample.get("img_path") or ""),
                "truth": np.flatnonzero(truth).tolist(),
                "found": [[label, round(float(score[label]), 4)] for label in found],
            },
        )

    def arrays(self) -> dict[str, NDArray]:
        scores, truth = zip(*self.rows, strict=True)
        return {"scores": np.stack(scores).astype(np.float32), "truth": np.stack(truth)}


class ObjectsCollector(Collector):
    """Objects, by their boxes: `score`, `label` (D,) of all detections; `right`, `ignored` (D,), a bit a threshold of
    IoU; `objects` (K,), how many there are; `confusion` (K + 1, K + 1): truth, prediction; last: nothing."""

    kind = "objects"

    def __init__(self, classes: int, pictures: int) -> None:
        self.rows: list[tuple[NDArray, ...]] = []
        self.objects = np.zeros(classes, np.int64)
        self.confusion = np.zeros((classes + 1, classes + 1), np.int64)
        super().__init__(classes, pictures)

    def values(self) -> int:
        return 200  # 100 detections a picture are usual

    def add(self, sample: BaseDataElement, info: Info) -> None:
        everything = prediction_of(_without_masks(sample))
        known = info()
        found = Detection(everything.boxes[:OBJECTS], everything.labels[:OBJECTS], everything.scores[:OBJECTS])
        truth, crowd = objects_of(known)
        results = match(found, truth, crowd)
        bits = 1 << np.arange(len(THRESHOLDS))[:, None]
        self.rows.append(
            (
                found.scores.astype(np.float32),
                found.labels.astype(np.int32),
                ((results == RIGHT) * bits).sum(0).astype(np.uint16),
                ((results == IGNORED) * bits).sum(0).astype(np.uint16),
            )
        )
        self.objects += np.bincount(truth.labels[~crowd], minlength=self.classes)
        shown = found.above(SHOWN)
        single = Detection(truth.boxes[~crowd], truth.labels[~crowd])
        self._confuse(pair(shown, single), shown, single, results[0, : len(shown.labels)] == IGNORED)
        value, right = quality(shown, single)
        self.extremes.add(
            value,
            lambda: {
                "path": str(sample.get("img_path") or ""),
                "truth": pack_objects(with_masks(truth, known)),
                "found": pack_objects(prediction_of(sample, SHOWN)),
                "right": right,
            },
        )

    def _confuse(self, pairs: list, shown: Detection, truth: Detection, ignored: NDArray[np.bool_]) -> None:
        nothing = self.classes
        for n, g, _ in pairs:
            self.confusion[truth.labels[g], shown.labels[n]] += 1
        found, taken = {n for n, _, _ in pairs}, {g for _, g, _ in pairs}
        for n in set(range(len(shown.labels))) - found - set(np.flatnonzero(ignored)):
            self.confusion[nothing, shown.labels[n]] += 1
        for g in set(range(len(truth.labels))) - taken:
            self.confusion[truth.labels[g], nothing] += 1

    def arrays(self) -> dict[str, NDArray]:
        columns = [np.concatenate(column) for column in zip(*self.rows, strict=True)]
        return dict(zip(("score", "label", "right", "ignored"), columns, strict=True)) | {
            "objects": self.objects,
            "confusion": self.confusion,
        }


class RegionsCollector(Collector):
    """A class a pixel: `confusion` (K, K): truth, prediction."""

    kind = "regions"

    def __init__(self, classes: int, pictures: int, ignore_index: int = 255) -> None:
        self.confusion = np.zeros((classes, classes), np.int64)
        self.ignore_index = ignore_index
        super().__init__(classes, pictures)

    def add(self, sample: BaseDataElement, info: Info) -> None:
        found = sample.pred_sem_seg.data.squeeze(0)
        truth = sample.gt_sem_seg.data.squeeze(0).to(found.device)
        counts = confusion(found, truth, self.classes, self.ignore_index).numpy()
        self.confusion += counts
        hit, either = counts.diagonal(), counts.sum(0) + counts.sum(1) - counts.diagonal()
        if not either.any():
            return  # nothing is labelled
        self.extremes.add(
            float((hit[either > 0] / either[either > 0]).mean()),
            lambda: {
                "path": str(sample.get("img_path") or ""),
                "truth": pack_labels(truth.cpu().numpy()),
                "found": pack_labels(found.cpu().numpy()),
                "right": round(float(hit.sum() / counts.sum()), 4),
            },
        )

    def arrays(self) -> dict[str, NDArray]:
        return {"confusion": self.confusion}


def collector_for(sample: BaseDataElement, classes: int, pictures: int) -> Collector | None:
    """The one that fits what a model says of a picture; None where there is none, or no truth beside it.

    Args:
        classes: of the data set.
        pictures: that this process will see.
    """
    if "pred_score" in sample and "gt_score" in sample:
        return LabelsCollector(len(sample.pred_score), pictures)
    if "pred_score" in sample and "gt_label" in sample:
        return ClassCollector(len(sample.pred_score), pictures)
    if "pred_instances" in sample and "bboxes" in sample.pred_instances and classes:
        return ObjectsCollector(classes, pictures)
    if "pred_sem_seg" in sample and "gt_sem_seg" in sample and classes:
        return RegionsCollector(classes, pictures)
    return None


def objects_of(info: Mapping[str, Any]) -> tuple[Detection, NDArray[np.bool_]]:
    """The objects of a picture as mmdet's data sets give them, in the pixels of its file, and which are crowds.

    Raises:
        InputError: the data set gives none.
    """
    if "instances" not in info:
        raise InputError("the data set gives no instances, to compare detections with")
    instances = info["instances"]
    boxes = np.array([entry["bbox"] for entry in instances], np.float32).reshape(-1, 4)
    labels = np.array([entry["bbox_label"] for entry in instances], np.int64)
    crowd = np.array([bool(entry.get("ignore_flag", 0)) for entry in instances], bool)
    return Detection(boxes, labels), crowd


def with_masks(truth: Detection, info: Mapping[str, Any]) -> Detection:
    """The objects with their masks, where all have one."""
    masks = [entry.get("mask") for entry in info["instances"]]
    if not masks or not all(masks) or "height" not in info:
        return truth
    size = int(info["height"]), int(info["width"])
    drawn = []
    for mask in masks:
        if isinstance(mask, list):
            mask = coco_mask.merge(coco_mask.frPyObjects(mask, *size))
        elif isinstance(mask["counts"], list):
            mask = coco_mask.frPyObjects(mask, *size)
        drawn.append(coco_mask.decode(mask).astype(bool))
    return Detection(truth.boxes, truth.labels, None, np.stack(drawn))


def _without_masks(sample: BaseDataElement) -> BaseDataElement:
    """Only boxes are matched: the masks of hundreds of objects are not copied for it, unless boxes are made of them."""
    found = sample.pred_instances
    if "masks" not in found or not found.bboxes.any():
        return sample
    slim = type(found)(bboxes=found.bboxes, labels=found.labels, scores=found.scores)
    return BaseDataElement(pred_instances=slim)
