"""What classification heads share: the check of their input, and the loss."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import trunc_normal_
from torch import Tensor, nn


class ClassificationHead(BaseModule):
    """Feature maps -> class scores. A head fills `scores`; `fc` is its last linear layer, or its last layers.

    Args:
        in_channels: channels of the last feature map.
        num_classes: classes.
        dropout: rate of dropout before the last linear layer, in 0..1.
        label_smoothing: share of the target spread over all classes (arXiv:1512.00567), in 0..1. Of no effect on
            targets that are soft already, as mixup's are: there it is mixup's own `label_smoothing`.

    Input: a tuple of (B, C_i, H_i, W_i), the last of which is used, or one such map. Output: (B, num_classes).

    Raises:
        ValueError: the map has other channels.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        self.in_channels, self.num_classes, self.label_smoothing = in_channels, num_classes, label_smoothing
        self.dropout = nn.Dropout(dropout)

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

    def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of (B, num_classes) logits against labels (B,) or soft targets (B, num_classes)."""
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        return dict(loss=F.cross_entropy(logits.float(), target, label_smoothing=smoothing))


def linear(in_features: int, out_features: int, bias: bool = True) -> nn.Linear:
    """A linear layer as classifiers start with: truncated normal of deviation 0.02, no shift."""
    layer = nn.Linear(in_features, out_features, bias)
    trunc_normal_(layer.weight, std=0.02)
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
