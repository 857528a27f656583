"""What classification heads share: the check of their input, losses, and probabilities."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import trunc_normal_
from timm.loss import AsymmetricLossMultiLabel
from torch import Tensor, nn

LOSSES = ("cross_entropy", "binary_cross_entropy", "asymmetric")


class ClassificationHead(BaseModule):
    """Feature maps -> class scores. A head fills `scores`; `fc` is its last linear layer, or its last layers.

    Args:
        in_channels: channels of the last feature map.
        num_classes: classes.
        dropout: rate of dropout before the last linear layer, in 0..1.
        label_smoothing: share of the target spread over all classes (arXiv:1512.00567), in 0..1. Of no effect on
            targets that are soft already, as mixup's are: there it is mixup's own `label_smoothing`.
        loss: 'cross_entropy'; 'binary_cross_entropy', a question a class (arXiv:2110.00476); or 'asymmetric', which
            weighs down the many easy "no"s of multi-label data (arXiv:2009.14119; timm's, its default exponents).
        multi_label: a picture may have any number of the classes: probabilities are sigmoids, not a softmax, and all
            classes from `threshold` on are predicted. The loss is then 'binary_cross_entropy', unless another is given.
        threshold: probability from which a class is predicted, with `multi_label`.

    Input: a tuple of (B, C_i, H_i, W_i), the last of which is used, or one such map. Output: (B, num_classes).

    Raises:
        ValueError: the map has other channels; there is no such loss, or it does not go with `multi_label`.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        loss: str | None = None,
        multi_label: bool = False,
        threshold: float = 0.5,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.loss_kind = loss or ("binary_cross_entropy" if multi_label else "cross_entropy")
        if self.loss_kind not in LOSSES:
            raise ValueError(f"{type(self).__name__}: no loss {loss!r}; there are {', '.join(LOSSES)}")
        if multi_label and self.loss_kind == "cross_entropy":
            raise ValueError(
                f"{type(self).__name__}: loss='cross_entropy' asks for one class a picture, multi_label=True for any "
                "number: set loss='binary_cross_entropy' or 'asymmetric'"
            )
        self.in_channels, self.num_classes, self.label_smoothing = in_channels, num_classes, label_smoothing
        self.multi_label, self.threshold = multi_label, threshold
        self.dropout = nn.Dropout(dropout)
        self._asymmetric = AsymmetricLossMultiLabel() if self.loss_kind == "asymmetric" else None

    def forward(self, feats: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Feature maps -> logits (B, num_classes)."""
        x = feats if isinstance(feats, Tensor) else feats[-1]
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"{type(self).__name__}: in_channels {self.in_channels} does not fit the backbone's map "
                f"{tuple(x.shape)}: set model.head.in_channels"
            )
        return self.scores(x.permute(0, 2, 3, 1))

    def scores(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, num_classes)."""
        raise NotImplementedError(f"{type(self).__name__} does not define scores")

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, num_classes): of each class by itself with `multi_label`, else of all classes together."""
        return logits.float().sigmoid() if self.multi_label else logits.float().softmax(dim=-1)

    def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """The loss of (B, num_classes) logits against labels (B,) or soft or several labels (B, num_classes).

        Means over the pictures; binary cross-entropy's also over the classes, the asymmetric loss sums over them.
        """
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        logits = logits.float()
        if self.loss_kind == "cross_entropy":
            return dict(loss=F.cross_entropy(logits, target, label_smoothing=smoothing))
        if not target.is_floating_point():
            target = F.one_hot(target, self.num_classes).to(logits.dtype)
            target = target * (1 - smoothing) + smoothing / self.num_classes
        if self._asymmetric is not None:
            return dict(loss=self._asymmetric(logits, target))
        return dict(loss=F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype)))


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A linear layer as classifiers start with: truncated normal of deviation 0.02, no shift."""
    layer = nn.Linear(in_features, out_features, bias)
    trunc_normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
