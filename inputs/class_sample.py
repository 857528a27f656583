"""One picture's label and prediction."""

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


class ClassSample(BaseDataElement):
    """`gt_label` (1,), int64, or for several labels a picture `gt_score` (num_classes,), 0 or 1 or between.

    Predicted: `pred_score` (num_classes,), probabilities; `pred_label` (1,), int64, the best class; with several labels
    a picture `pred_labels` (K,), int64, all classes from the threshold on, best first.

    Meta information: `img_path`, `ori_shape` and `img_shape`, both (H, W); `threshold` if there is one.
    """

    def set_gt_label(self, label: int | Tensor) -> "ClassSample":
        """The true class, counted from 0."""
        self.set_field(torch.as_tensor(label, dtype=torch.int64).reshape(1), "gt_label", dtype=Tensor)
        return self

    def set_gt_score(self, score: Tensor) -> "ClassSample":
        """How far each class is true, (num_classes,)."""
        self.set_field(torch.as_tensor(score, dtype=torch.float32), "gt_score", dtype=Tensor)
        return self

    def set_pred_label(self, label: int | Tensor) -> "ClassSample":
        """The predicted class, counted from 0."""
        self.set_field(torch.as_tensor(label, dtype=torch.int64).reshape(1), "pred_label", dtype=Tensor)
        return self

    def set_pred_score(self, score: Tensor) -> "ClassSample":
        """A probability a class, (num_classes,)."""
        self.set_field(score, "pred_score", dtype=Tensor)
        return self

    def set_prediction(self, score: Tensor, threshold: float | None = None) -> "ClassSample":
        """A probability a class, (num_classes,), and what follows: the best class, and all from `threshold` on."""
        self.set_pred_score(score).set_pred_label(score.argmax())
        if threshold is not None:
            best = score.argsort(descending=True, stable=True)
            self.set_field(best[score[best] >= threshold], "pred_labels", dtype=Tensor)
            self.set_metainfo(dict(threshold=threshold))
        return self
