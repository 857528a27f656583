"""Norm, mean over the map, one linear layer."""

from typing import Any

from timm.layers import LayerNorm
from torch import Tensor, nn

from ..backbones.layers import GroupNorm1
from ..backbones.layers.mbconv import channels_norm
from ..registry import MODELS
from .base import ClassificationHead, linear

NORMS = {
    None: None,
    "GroupNorm1": GroupNorm1,
    "LayerNorm": LayerNorm,
    "BatchNorm": nn.BatchNorm1d,
    "BatchNorm2d": nn.BatchNorm2d,
}


@MODELS.register_module()
class LinearHead(ClassificationHead):
    """Class scores from the last feature map by one linear layer. Other arguments and errors: `ClassificationHead`.

    Args:
        norm: 'GroupNorm1', 'LayerNorm', 'BatchNorm' (of the mean), 'BatchNorm2d' (of the map) or None.
        norm_first: normalise the map and take its mean then (FocalNet's order), not the mean's norm (DaViT's).
        norm_eps: epsilon of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        norm: str | None = None,
        norm_first: bool = False,
        norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **kwargs)
        if norm not in NORMS:
            raise ValueError(f"LinearHead: no norm {norm!r}; there are {', '.join(map(str, NORMS))}")
        if norm_first and norm == "BatchNorm":
            raise ValueError("LinearHead: BatchNorm comes after the mean; set norm_first=False")
        if not norm_first and norm == "BatchNorm2d":
            raise ValueError("LinearHead: BatchNorm2d comes before the mean; set norm_first=True")
        if norm == "GroupNorm1" and not norm_first:
            norm = "LayerNorm"  # on the mean, one group over all channels is a layer norm
        self.norm_first = norm_first
        self.norm = NORMS[norm](in_channels, eps=norm_eps) if norm else nn.Identity()
        self.fc = linear(in_channels, num_classes)

    def scores(self, x: Tensor) -> Tensor:
        if isinstance(self.norm, (nn.BatchNorm2d, nn.SyncBatchNorm)) and self.norm_first:
            return self.fc(self.dropout(channels_norm(self.norm, x).mean(dim=(1, 2))))
        x = self.norm(x).mean(dim=(1, 2)) if self.norm_first else self.norm(x.mean(dim=(1, 2)))
        return self.fc(self.dropout(x))
