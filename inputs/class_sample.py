"""One picture's label and prediction."""

import torch
from mmengine.structures import BaseDataElement
from torch import Tensor


class ClassSample(BaseDataElement):
    """`gt_label` (1,), int64; `pred_score` (num_classes,), probabilities; `pred_label` (1,), int64.

    Meta information: `img_path`, `ori_shape` and `img_shape`, both (H, W).
    """

    def set_gt_label(self, label: int | Tensor) -> "ClassSample":
        """The true class, counted from 0."""
        self.set_field(torch.as_tensor(label, dtype=torch.int64).reshape(1), "gt_label", dtype=Tensor)
        return self

    def set_pred_label(self, label: int | Tensor) -> "ClassSample":
        """The predicted class, counted from 0."""
        self.set_field(torch.as_tensor(label, dtype=torch.int64).reshape(1), "pred_label", dtype=Tensor)
        return self

    def set_pred_score(self, score: Tensor) -> "ClassSample":
        """A probability a class, (num_classes,)."""
        self.set_field(score, "pred_score", dtype=Tensor)
        return self
