"""What a model says about one picture, apart from the framework's samples: for JSON, for drawing."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

from ..errors import InputError


@dataclass
class Detection:
    """Objects of a picture: boxes (N, 4) as x1, y1, x2, y2; labels (N,); scores (N,), None for ground truth; masks
    (N, H, W) bool, None where the model gives boxes alone."""

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None
    masks: NDArray[np.bool_] | None = None

    def above(self, threshold: float) -> "Detection":
        """Those with a score of at least `threshold`, best first."""
        order = np.argsort(-self.scores, kind="stable")
        kept = order[self.scores[order] >= threshold]
        masks = None if self.masks is None else self.masks[kept]
        return Detection(self.boxes[kept], self.labels[kept], self.scores[kept], masks)

    def record(self, classes: list[str]) -> dict[str, Any]:
        """COCO's results format: boxes as x, y, width, height, masks as RLE; `category_id` counts from 0."""
        objects = []
        for i, (x1, y1, x2, y2) in enumerate(self.boxes.tolist()):
            entry = {
                "category_id": int(self.labels[i]),
                "category": name_of(classes, self.labels[i]),
                "score": round(float(self.scores[i]), 5),
                "bbox": [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)],
            }
            if self.masks is not None:
                rle = coco_mask.encode(np.asfortranarray(self.masks[i], dtype=np.uint8))
                entry["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
            objects.append(entry)
        return {"detections": objects}


@dataclass
class Segmentation:
    """A class for each pixel: labels (H, W); 255 in ground truth: not labelled. `left_out`: the number of pixels that
    were not asked for, or are too unsure."""

    labels: NDArray[np.int64]
    left_out: int | None = None

    def record(self, classes: list[str]) -> dict[str, Any]:
        """The share of the picture that each class takes, those that occur."""
        found, counts = np.unique(self.labels, return_counts=True)
        shares = {
            name_of(classes, label): round(count / self.labels.size, 5)
            for label, count in zip(found.tolist(), counts.tolist(), strict=True)
            if label != self.left_out
        }
        return {"fractions": shares}


@dataclass
class Classification:
    """The best classes of a picture, best first: labels (K,); scores (K,), probabilities, None for ground truth."""

    labels: NDArray[np.int64]
    scores: NDArray[np.float32] | None = None

    def record(self, classes: list[str]) -> dict[str, Any]:
        """`top`: class numbers, names and probabilities."""
        pairs = zip(self.labels.tolist(), self.scores.tolist(), strict=True)
        return {"top": [{"label": k, "category": name_of(classes, k), "score": round(p, 5)} for k, p in pairs]}


Prediction = Detection | Segmentation | Classification
TASKS = {Detection: "detection", Segmentation: "segmentation", Classification: "classification"}


def name_of(classes: list[str], label: int) -> str:
    """The name of a class, its number if it has none."""
    return classes[label] if 0 <= label < len(classes) else f"class {label}"


def prediction_of(sample: BaseDataElement, score_thr: float = 0.0, top_k: int = 5) -> Prediction:
    """What `sample`, which a model returned for one picture, holds.

    Args:
        sample: an mmdet, mmseg or ClassSample data sample.
        score_thr: objects below are left out.
        top_k: classes of a classification that are kept.

    Raises:
        InputError: it holds neither instances, nor a semantic segmentation, nor class scores.
    """
    if "pred_instances" in sample:
        found = sample.pred_instances.cpu()
        masks = found.masks if "masks" in found else None
        masks = None if masks is None else np.asarray(masks, dtype=bool)
        # Boxes of models that predict masks alone are all zero, and some give no boxes at all.
        boxes = found.bboxes.numpy() if "bboxes" in found else np.zeros((len(found), 4), np.float32)
        if masks is not None and len(masks) and not boxes.any():
            boxes = np.stack([_box_around(mask) for mask in masks])
        return Detection(boxes, found.labels.numpy(), found.scores.numpy(), masks).above(score_thr)
    if "pred_sem_seg" in sample:
        return Segmentation(sample.pred_sem_seg.data.cpu().numpy()[0].astype(np.int64))
    if "pred_score" in sample:
        if "pred_labels" in sample:
            labels = sample.pred_labels.cpu()
            return Classification(labels.numpy(), sample.pred_score.cpu()[labels].numpy())
        best = sample.pred_score.cpu().topk(min(top_k, len(sample.pred_score)))
        return Classification(best.indices.numpy(), best.values.numpy())
    has = ", ".join(key for key in sample.all_keys() if key.startswith("pred")) or "nothing"
    raise InputError(f"the model predicts {has}; instances, semantic segmentation and classes can be drawn")


def _box_around(mask: NDArray[np.bool_]) -> NDArray[np.float32]:
    rows, columns = mask.any(axis=1).nonzero()[0], mask.any(axis=0).nonzero()[0]
    if not len(rows):
        return np.zeros(4, np.float32)
    return np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], np.float32)
