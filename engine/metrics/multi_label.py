"""Scores of classifiers of pictures with several classes each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from mmengine.evaluator import BaseMetric
from numpy.typing import NDArray
from rich.table import Table
from sklearn.metrics import average_precision_score

from ...errors import InputError
from ...registry import METRICS


@METRICS.register_module()
class MultiLabelScores(BaseMetric):
    """Average precision, precision, recall and F1 of each class and over all, in 0..1, as `multilabel/mAP`, ...

    `mAP`: the mean of the classes' average precisions, scikit-learn's, over classes that occur. At the threshold:
    `CP`, `CR`: the means of the classes' precisions and recalls over all classes, a class without a prediction or a
    picture counts 0; `CF1` = 2 CP CR / (CP + CR), as in arXiv:1904.03582; `OP`, `OR`, `OF1`: of all decisions together.
    `tables` holds a table a class after each evaluation.

    Args:
        threshold: scores from it on say that a class is there.
        classwise: give `multilabel/AP_<class>`, too.

    Samples have `pred_score` and `gt_score`, both (num_classes,); soft truth counts from 0.5 on.

    Raises:
        InputError: scores that are no numbers; samples without `gt_score`.
    """

    default_prefix = "multilabel"

    def __init__(
        self,
        threshold: float = 0.5,
        classwise: bool = False,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        self.threshold, self.classwise = threshold, classwise
        self.tables: list[Table] = []

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Remember scores and truth, a picture."""
        for sample in data_samples:
            if "gt_score" not in sample:
                raise InputError(
                    f"MultiLabelScores: {sample.get('img_path')} has one class at most; it wants a data set such as "
                    "MultiLabelImages. For one class a picture there is TopkAccuracy"
                )
            score = sample["pred_score"].float().cpu().numpy()
            if not np.isfinite(score).all():
                raise InputError(f"MultiLabelScores: {sample.get('img_path')}: scores that are not finite")
            self.results.append((score, (sample["gt_score"] >= 0.5).cpu().numpy()))

    def compute_metrics(self, results: list[tuple[NDArray, NDArray]]) -> dict[str, float]:
        """The scores over all pictures."""
        scores, truth = (np.stack(column) for column in zip(*results, strict=True))
        found = scores >= np.float32(self.threshold)
        right = (found & truth).sum(0)
        precision, recall = _share(right, found.sum(0)), _share(right, truth.sum(0))
        names = (self.dataset_meta or {}).get("classes") or ()
        names = [str(names[k]) if k < len(names) else f"class {k}" for k in range(truth.shape[1])]
        occurs = np.flatnonzero(truth.any(0))
        ap = {k: float(average_precision_score(truth[:, k], scores[:, k])) for k in occurs}
        self.tables = [_table(names, truth.sum(0), ap, precision, recall, self.threshold)]
        cp, cr = float(precision.mean()), float(recall.mean())
        op, or_ = float(_share(right.sum(), found.sum())), float(_share(right.sum(), truth.sum()))
        numbers = {"mAP": float(np.mean(list(ap.values()))) if ap else float("nan")}
        numbers |= {"CP": cp, "CR": cr, "CF1": _f1(cp, cr), "OP": op, "OR": or_, "OF1": _f1(op, or_)}
        return numbers | ({f"AP_{names[k]}": value for k, value in ap.items()} if self.classwise else {})


def _share(part: NDArray | np.integer, whole: NDArray | np.integer) -> NDArray[np.float64]:
    return part / np.maximum(whole, 1)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _table(
    names: Sequence[str],
    pictures: NDArray,
    ap: Mapping[int, float],
    precision: NDArray,
    recall: NDArray,
    threshold: float,
) -> Table:
    table = Table(
        "class", "pictures", "AP", "precision", "recall", title=f"a class; the latter two from {threshold} on"
    )
    for k, name in enumerate(names):
        shown = f"{ap[k]:.4f}" if k in ap else "-"
        table.add_row(name, str(pictures[k]), shown, f"{precision[k]:.4f}", f"{recall[k]:.4f}")
    return table
