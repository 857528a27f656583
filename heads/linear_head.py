"""Norm, mean over the map, one linear layer."""

import torch.nn.functional as F
from mmengine.model import BaseModule
from timm.layers import LayerNorm, trunc_normal_
from torch import Tensor, nn

from ..backbones.layers import GroupNorm1
from ..registry import MODELS

NORMS = {None: None, "GroupNorm1": GroupNorm1, "LayerNorm": LayerNorm, "BatchNorm": nn.BatchNorm1d}


@MODELS.register_module()
class LinearHead(BaseModule):
    """Class scores from the last feature map.

    Args:
        in_channels: channels of that map.
        num_classes: classes.
        norm: 'GroupNorm1', 'LayerNorm', 'BatchNorm' or None.
        norm_first: normalise the map and take its mean then (PoolFormer's order), not the mean's norm (timm's).
        norm_eps: epsilon of the norm.
        dropout: rate of dropout before the linear layer, in 0..1.
        label_smoothing: share of the target spread over all classes (arXiv:1512.00567), in 0..1. Of no effect on
            targets that are soft already, as mixup's are: there it is mixup's own `label_smoothing`.

    Input: a tuple of (B, C_i, H_i, W_i), the last of which is used, or one such map. Output: (B, num_classes).
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        norm: str | None = None,
        norm_first: bool = False,
        norm_eps: float = 1e-5,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        init_cfg: dict | None = None,
    ) -> None:
        super().__init__(init_cfg)
        if norm not in NORMS:
            raise ValueError(f"LinearHead: no norm {norm!r}; there are {', '.join(map(str, NORMS))}")
        if norm_first and norm == "BatchNorm":
            raise ValueError("LinearHead: BatchNorm comes after the mean; set norm_first=False")
        if norm == "GroupNorm1" and not norm_first:
            norm = "LayerNorm"  # on the mean, one group over all channels is a layer norm
        self.in_channels, self.num_classes = in_channels, num_classes
        self.norm_first, self.label_smoothing = norm_first, label_smoothing
        self.norm = NORMS[norm](in_channels, eps=norm_eps) if norm else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(in_channels, num_classes)
        trunc_normal_(self.fc.weight, std=0.02)
        nn.init.zeros_(self.fc.bias)

    def forward(self, feats: Tensor | tuple[Tensor, ...]) -> Tensor:
        """Feature maps -> logits (B, num_classes)."""
        x = feats if isinstance(feats, Tensor) else feats[-1]
        if x.ndim != 4 or x.shape[1] != self.in_channels:
            raise ValueError(
                f"LinearHead: in_channels {self.in_channels} does not fit the backbone's map {tuple(x.shape)}: "
                f"set model.head.in_channels"
            )
        x = x.permute(0, 2, 3, 1)
        x = self.norm(x).mean(dim=(1, 2)) if self.norm_first else self.norm(x.mean(dim=(1, 2)))
        return self.fc(self.dropout(x))

    def loss(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        """Cross-entropy of (B, num_classes) logits against labels (B,) or soft targets (B, num_classes)."""
        smoothing = 0.0 if target.is_floating_point() else self.label_smoothing
        return dict(loss=F.cross_entropy(logits.float(), target, label_smoothing=smoothing))
