"""Scores of segmentors from confusion matrices that grow picture by picture: no prediction is kept."""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.dist import all_reduce, get_dist_info, is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.logging import print_log
from numpy.typing import NDArray
from rich.table import Table
from torch import Tensor

from ...errors import InputError
from ...registry import METRICS
from .tables import as_text


@METRICS.register_module()
class StreamingIoU(BaseMetric):
    """`aAcc`, `mIoU`, `mAcc` and, if asked for, `boundary_mIoU`, fractions of 1; K classes.

    A process holds one (K, K) int64 matrix, and that of its latest picture apart: samplers of several processes repeat
    pictures so that all have as many, at most one a process, its last. The matrices are summed over the processes;
    counts are whole numbers, so that any number of processes gives the same scores to the last bit.

    IoU of a class is what label and prediction share over what either has; a class that neither has, and accuracy of
    one that has no label, is left out of the mean: the scores of mmseg's `IoUMetric`, which gives percent.
    Boundary IoU (arXiv:2103.16562) is the same of the pixels within `dilation_ratio` of the diagonal of another class,
    of an ignored pixel, or of the picture's edge; intersections and unions are summed over the pictures.

    `tables` holds a table after each evaluation: a row a class.

    Args:
        ignore_index: pixels with this label do not count.
        iou_metrics: mmseg's; only ['mIoU'] is known here.
        boundary: boundary IoU, too.
        dilation_ratio: distance that counts as boundary, as a part of the picture's diagonal.
        classwise: give `IoU/<class>`, too.

    Raises:
        InputError: labels or predictions are no class of the data set; sizes differ.
    """

    def __init__(
        self,
        ignore_index: int = 255,
        iou_metrics: Sequence[str] = ("mIoU",),
        boundary: bool = False,
        dilation_ratio: float = 0.02,
        classwise: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        if list(iou_metrics) != ["mIoU"]:
            raise ValueError(
                f"StreamingIoU: iou_metrics {list(iou_metrics)}; it has ['mIoU'], mmseg's IoUMetric others"
            )
        self.ignore_index, self.boundary, self.dilation_ratio = ignore_index, boundary, dilation_ratio
        self.classwise = classwise
        self.tables: list[Table] = []
        self._forget()

    def _forget(self) -> None:
        self.pictures = 0  # of this process, the latest included
        self._total: Tensor | None = None  # without the latest
        self._latest: Tensor | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Count each picture's pixels: `pred_sem_seg` and `gt_sem_seg`, both (1, H, W)."""
        names = self.dataset_meta["classes"]
        for sample in data_samples:
            predicted = sample["pred_sem_seg"]["data"].squeeze(0)
            label = sample["gt_sem_seg"]["data"].squeeze(0).to(predicted.device)
            try:
                counts = confusion(predicted, label, len(names), self.ignore_index)
            except ValueError as error:
                raise InputError(f"{sample.get('seg_map_path') or sample.get('img_path')}: {error}") from error
            if self.boundary:
                edges = boundary_counts(
                    predicted.cpu().numpy(), label.cpu().numpy(), len(names), self.ignore_index, self.dilation_ratio
                )
                counts = torch.cat([counts, torch.from_numpy(edges)])
            if self._latest is not None:
                self._total = self._latest if self._total is None else self._total.add_(self._latest)
            self._latest = counts
            self.pictures += 1

    def evaluate(self, size: int) -> dict[str, float]:
        """The scores over the `size` pictures of all processes; the same in each of them."""
        rank, world = get_dist_info()
        classes = len(self.dataset_meta["classes"])
        total = torch.zeros(classes + 3 * self.boundary, classes, dtype=torch.int64)
        counted = torch.tensor(0)
        if self._total is not None:
            total, counted = total + self._total, counted + self.pictures - 1
        # A process's picture k is the data set's k * world + rank, as in mmengine's DefaultSampler and collect_results.
        if self._latest is not None and (self.pictures - 1) * world + rank < size:
            total, counted = total + self._latest, counted + 1
        if world > 1:
            all_reduce(total)
            all_reduce(counted)
        self._forget()
        if int(counted) != size:
            print_log(f"StreamingIoU: {int(counted)} of {size} pictures were counted", "current", level=30)
        found = self.compute_metrics([total.numpy()])
        if is_main_process():
            print_log("\n" + as_text(self.tables), "current")
        return {f"{self.prefix}/{name}": value for name, value in found.items()} if self.prefix else found

    def compute_metrics(self, results: list[NDArray[np.int64]]) -> dict[str, float]:
        """Scores of the summed counts: (K, K), rows labels, columns predictions, and below it the boundary's (3, K)."""
        names = self.dataset_meta["classes"]
        matrix, edges = results[0][: len(names)], results[0][len(names) :]
        hit, labelled, predicted = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        columns = {"IoU": _share(hit, labelled + predicted - hit), "Acc": _share(hit, labelled)}
        if self.boundary:
            columns["boundary_IoU"] = _share(edges[0], edges[1] + edges[2] - edges[0])
        table = Table("class", "pixels", *columns, title="segmentation a class")
        for k, name in enumerate(names):
            row = (f"{column[k]:.4f}" if np.isfinite(column[k]) else "-" for column in columns.values())
            table.add_row(str(name), str(labelled[k]), *row)
        self.tables = [table]
        found = {"aAcc": float(_share(hit.sum(), labelled.sum())), "mIoU": _mean(columns["IoU"])}
        found["mAcc"] = _mean(columns["Acc"])
        if self.boundary:
            found["boundary_mIoU"] = _mean(columns["boundary_IoU"])
        if self.classwise:
            found |= {f"IoU/{name}": float(value) for name, value in zip(names, columns["IoU"], strict=True)}
        return found


def confusion(predicted: Tensor, label: Tensor, classes: int, ignore_index: int = 255) -> Tensor:
    """Pixels by label (row) and prediction (column): two (H, W) whole numbers -> (K, K) int64 on the CPU.

    Raises:
        ValueError: sizes differ; a label other than `ignore_index`, or a prediction on a labelled pixel, is no class.
    """
    if predicted.shape != label.shape:
        raise ValueError(f"the prediction is {tuple(predicted.shape)}, the label {tuple(label.shape)}")
    predicted, label = predicted.reshape(-1).long(), label.reshape(-1).long()
    counted = label != ignore_index
    predicted, label = predicted[counted], label[counted]
    for what, values in (("the label", label), ("the prediction", predicted)):
        wrong = values[(values < 0) | (values >= classes)]
        if len(wrong):
            raise ValueError(f"{what} has the value {int(wrong[0])}; there are {classes} classes, counted from 0")
    return torch.bincount(label * classes + predicted, minlength=classes**2).reshape(classes, classes).cpu()


def boundary_counts(
    predicted: NDArray, label: NDArray, classes: int, ignore_index: int = 255, dilation_ratio: float = 0.02
) -> NDArray[np.int64]:
    """Pixels of boundaries a class, (3, K): those of both, the prediction's, the label's; from two (H, W)."""
    ignored = label == ignore_index
    height, width = label.shape
    distance = max(1, round(dilation_ratio * float(np.hypot(height, width))))
    maps = [np.where(ignored, -2, labels).astype(np.int16) for labels in (predicted, label)]
    ours, truth = (_near_another(labels, distance) & ~ignored for labels in maps)
    both = ours & truth & (maps[0] == maps[1])
    found = (maps[1][both], maps[0][ours], maps[1][truth])
    return np.stack([np.bincount(values, minlength=classes) for values in found])


def _near_another(labels: NDArray[np.int16], distance: int) -> NDArray[np.bool_]:
    """Pixels with another label, or the edge, within `distance` in rows and columns: all classes in two passes."""
    framed = cv2.copyMakeBorder(labels, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=-3)
    square = np.ones((2 * distance + 1, 2 * distance + 1), np.uint8)
    return (cv2.erode(framed, square) != cv2.dilate(framed, square))[1:-1, 1:-1]


def _share(part: NDArray, whole: NDArray) -> NDArray[np.float64]:
    """`part` / `whole`, not a number where there is nothing."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.divide(part, whole)


def _mean(values: NDArray[np.float64]) -> float:
    there = values[np.isfinite(values)]
    return float(there.mean()) if len(there) else float("nan")
