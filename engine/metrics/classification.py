"""Scores of classifiers."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray
from rich.table import Table

from ...errors import InputError
from ...registry import METRICS


@METRICS.register_module()
class TopkAccuracy(BaseMetric):
    """The share of pictures whose class is among the k best scored, in 0..1, as `accuracy/top1`, `accuracy/top5`.

    Args:
        topk: the k's; one that exceeds the number of classes is refused.
    """

    default_prefix = "accuracy"

    def __init__(
        self, topk: int | Sequence[int] = (1, 5), collect_device: str = "cpu", prefix: str | None = None
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.topk = (topk,) if isinstance(topk, int) else tuple(topk)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Remember, a picture, the rank of its true class: 0 is best."""
        for sample in data_samples:
            score, label = sample["pred_score"].float(), int(sample["gt_label"])
            if max(self.topk) > score.numel():
                raise ValueError(f"TopkAccuracy: topk {self.topk} with {score.numel()} classes; set topk in the config")
            # Ties count against the model: equal scores are no answer. So do scores that are not a number.
            beaten = (score >= score[label]).sum().item() - 1
            self.results.append(beaten if torch.isfinite(score[label]) else score.numel())

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """The scores over all pictures."""
        ranks = torch.tensor(results)
        return {f"top{k}": (ranks < k).double().mean().item() for k in self.topk}


@METRICS.register_module()
class ClassAccuracy(BaseMetric):
    """Accuracy a class: `accuracy/mean_class`, the mean over classes that occur, and the table of all of them.

    `tables` holds a table after each evaluation: class, pictures, share of them that is right (top-1). As in
    `TopkAccuracy` a tie for the first place is no answer.

    Args:
        classwise: give `accuracy/<class>` for each class that occurs, too.
    """

    default_prefix = "accuracy"

    def __init__(self, classwise: bool = False, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.classwise = classwise
        self.tables: list[Table] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Remember true class and whether it is found, a picture."""
        for sample in data_samples:
            label = int(sample["gt_label"])
            self.results.append((label, _wins(sample["pred_score"].float(), label)))

    def compute_metrics(self, results: list[tuple[int, bool]]) -> dict[str, float]:
        """The scores over all pictures."""
        labels, right = (np.array(column, dtype=np.int64) for column in zip(*results, strict=True))
        pictures = np.bincount(labels)
        hits = np.bincount(labels, weights=right)
        names = (self.dataset_meta or {}).get("classes") or ()
        shares = {_name(names, k): hits[k] / pictures[k] for k in np.flatnonzero(pictures)}
        table = Table("class", "pictures", "top-1", title="accuracy a class")
        for k, (name, share) in zip(np.flatnonzero(pictures), shares.items(), strict=True):
            table.add_row(name, str(pictures[k]), f"{share:.4f}")
        self.tables = [table]
        found = {"mean_class": float(np.mean(list(shares.values())))}
        return found | ({name: float(share) for name, share in shares.items()} if self.classwise else {})


@METRICS.register_module()
class CalibrationError(BaseMetric):
    """How far confidence lies from accuracy (Guo et al., arXiv:1706.04599), in 0..1, as `calibration/ece`, `.../mce`.

    A picture's confidence is its best probability. Bins of equal width cut (0, 1], each open on its left; ECE is the
    mean over bins, weighted by their pictures, of |accuracy - mean confidence|, MCE the largest of them.

    Args:
        bins: their number.
    """

    default_prefix = "calibration"

    def __init__(self, bins: int = 15, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if bins < 1:
            raise ValueError(f"CalibrationError: bins {bins}; at least one is needed")
        self.bins = bins

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Remember confidence and whether it was right, a picture."""
        for sample in data_samples:
            score = sample["pred_score"].double()
            self.results.append((float(score.max()), int(score.argmax()) == int(sample["gt_label"])))

    def compute_metrics(self, results: list[tuple[float, bool]]) -> dict[str, float]:
        """The errors over all pictures."""
        confidence, right = (np.array(column, dtype=np.float64) for column in zip(*results, strict=True))
        if not ((confidence >= 0) & (confidence <= 1 + 1e-6)).all():  # also what is not a number
            raise InputError(
                "CalibrationError: the best scores are not all in 0..1; it wants probabilities (a softmax)"
            )
        gaps = calibration_gaps(confidence, right, self.bins)
        return {"ece": float(gaps[:, 0] @ gaps[:, 1]), "mce": float(gaps[:, 1].max())}


def calibration_gaps(confidence: NDArray[np.float64], right: NDArray[np.float64], bins: int) -> NDArray[np.float64]:
    """(bins, 2): a bin's share of the pictures and |accuracy - mean confidence| in it; 0 where it is empty."""
    which = np.clip(np.searchsorted(np.linspace(0, 1, bins + 1), confidence, side="left") - 1, 0, bins - 1)
    count = np.bincount(which, minlength=bins)
    gap = np.bincount(which, right, bins) - np.bincount(which, confidence, bins)
    return np.stack([count / len(confidence), np.abs(gap) / np.maximum(count, 1)], axis=1)


@METRICS.register_module()
class RealAccuracy(BaseMetric):
    """Accuracy by ReaL's labels of ImageNet's validation pictures (arXiv:2006.07159), in 0..1, as `real/top1`.

    A picture is right if its best class is one of its set; pictures with an empty set are left out.

    Args:
        labels: the authors' `real.json`: a list of lists of classes, entry i for ILSVRC2012_val_0000(i+1).JPEG; or an
            object with names of files as keys.

    Raises:
        InputError: the file is not there or holds something else; a picture is not in it; it leaves all out.
    """

    default_prefix = "real"

    def __init__(self, labels: str | Path, collect_device: str = "cpu", prefix: str | None = None) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.path, self.labels = str(labels), read_real_labels(labels)

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Remember, a picture, 1 for right, 0 for wrong, -1 for one to be left out."""
        for sample in data_samples:
            name = Path(sample["img_path"]).name
            if name not in self.labels:
                raise InputError(f"{self.path}: it has no labels for {sample['img_path']}; it is for ImageNet's val")
            allowed = self.labels[name]
            self.results.append(int(int(sample["pred_score"].argmax()) in allowed) if allowed else -1)

    def compute_metrics(self, results: list[int]) -> dict[str, float]:
        """The share of those that have labels."""
        judged = [result for result in results if result >= 0]
        if not judged:
            raise InputError(f"{self.path}: it leaves out every picture that was evaluated")
        return {"top1": sum(judged) / len(judged)}


def read_real_labels(path: str | Path) -> dict[str, frozenset[int]]:
    """Sets of classes by the names of pictures. Raises InputError: see `RealAccuracy`."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no such file; ReaL's labels are google-research/reassessed-imagenet's real.json"
        ) from error
    except json.JSONDecodeError as error:
        raise InputError(f"{path}: not JSON: {error}") from error
    if isinstance(content, list):
        content = {f"ILSVRC2012_val_{number:08d}.JPEG": classes for number, classes in enumerate(content, 1)}
    whole = isinstance(content, dict) and all(
        isinstance(classes, list) and all(type(label) is int for label in classes) for classes in content.values()
    )
    if not whole:
        raise InputError(f"{path}: it wants a list of classes a picture, as [[0, 5], [], [17]]")
    return {name: frozenset(classes) for name, classes in content.items()}


def _wins(score: torch.Tensor, label: int) -> bool:
    """Whether no other class scores as high."""
    return bool(torch.isfinite(score[label]) and (score >= score[label]).sum() == 1)


def _name(names: Sequence[str], label: int) -> str:
    return str(names[label]) if label < len(names) else f"class {label}"
