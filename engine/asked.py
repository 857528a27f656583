"""What a person asks of predictions: classes, scores, how many."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from mmengine.structures import BaseDataElement
from numpy.typing import NDArray

from ..errors import InputError
from .predictions import Classification, Detection, Prediction, Segmentation, prediction_of

OBJECTS = 0.3  # the least score of an object, if none is given


@dataclass(frozen=True)
class Asked:
    """Which part of a prediction is wanted.

    Args:
        score: the least score. Of an object (0.3 if None); of a class that a classifier names (none if None); of a
            pixel's best class, the probability that a segmentor gives it (none if None).
        classes: numbers of the classes that are wanted; all if None. Of a classifier those are ranked, with the
            probabilities that they have among all.
        top_k: classes that a classifier names.
    """

    score: float | None = None
    classes: tuple[int, ...] | None = None
    top_k: int = 5

    def of(self, sample: BaseDataElement, num_classes: int) -> Prediction:
        """What `sample`, which a model returned for one picture, says of what was asked.

        Raises:
            InputError: see `prediction_of`; a score is asked of pixels that have none.
        """
        if "pred_instances" not in sample and "pred_sem_seg" not in sample and "pred_score" in sample:
            return self._ranked(sample)
        found = prediction_of(sample, OBJECTS if self.score is None else self.score)
        if isinstance(found, Detection) and self.classes is not None:
            kept = np.isin(found.labels, self.classes)
            masks = None if found.masks is None else found.masks[kept]
            return Detection(found.boxes[kept], found.labels[kept], found.scores[kept], masks)
        if isinstance(found, Segmentation) and (self.score is not None or self.classes is not None):
            left_out = 255 if num_classes <= 255 else 65535
            wanted = np.ones(found.labels.shape, bool)
            if self.classes is not None:
                wanted &= np.isin(found.labels, self.classes)
            if self.score is not None:
                wanted &= _certainty(sample) >= self.score
            return Segmentation(np.where(wanted, found.labels, left_out), left_out)
        return found

    def _ranked(self, sample: BaseDataElement) -> Classification:
        scores = sample.pred_score.float().cpu().numpy()
        order = np.argsort(-scores, kind="stable")
        if self.classes is not None:
            order = order[np.isin(order, self.classes)]
        least = sample.get("threshold") if self.score is None else self.score
        if least is not None:
            order = order[scores[order] >= least]
        if "pred_labels" not in sample:  # with several classes a picture the threshold says how many
            order = order[: self.top_k]
        return Classification(order.astype(np.int64), scores[order])


def _certainty(sample: BaseDataElement) -> NDArray[np.float32]:
    """(H, W): the probability of each pixel's class."""
    if "seg_logits" not in sample:
        raise InputError("score: the model gives no probabilities of pixels; leave it out")
    logits = sample.seg_logits.data.float()
    if len(logits) == 1:  # one class against none: mmseg has taken the sigmoid already
        return torch.maximum(logits, 1 - logits)[0].cpu().numpy()
    return logits.softmax(dim=0).amax(dim=0).cpu().numpy()


def class_numbers(given: Sequence[str | int], classes: Sequence[str]) -> tuple[int, ...]:
    """Numbers of classes that are given by name or by number.

    Raises:
        InputError: there is no such class; it names the nearest.
    """
    numbers = []
    for one in given:
        if one in classes:
            numbers.append(list(classes).index(one))
            continue
        try:
            number = int(one)
        except ValueError:
            near = difflib.get_close_matches(str(one), classes, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            some = ", ".join(classes[:8]) + (", ..." if len(classes) > 8 else "")
            raise InputError(f"classes: no class {one!r}{hint}; the model's {len(classes)} are {some}") from None
        if classes and not 0 <= number < len(classes):
            raise InputError(f"classes: no class number {number}; the model has {len(classes)}, counted from 0")
        numbers.append(number)
    return tuple(dict.fromkeys(numbers))
