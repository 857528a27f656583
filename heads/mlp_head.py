"""Heads with a hidden layer."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..registry import MODELS
from .base import ClassificationHead, linear


@MODELS.register_module()
class NormMlpHead(ClassificationHead):
    """Mean, layer norm, linear, tanh, linear (MaxViT, arXiv:2204.01697). Other arguments: see `ClassificationHead`.

    Args:
        norm_eps: epsilon of the norm.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **kwargs)
        self.norm = nn.LayerNorm(in_channels, eps=norm_eps)
        self.hidden = linear(in_channels, in_channels)
        self.fc = linear(in_channels, num_classes)

    def scores(self, x: Tensor) -> Tensor:
        return self.fc(self.dropout(self.hidden(self.norm(x.mean(dim=(1, 2)))).tanh()))


@MODELS.register_module()
class MlpHead(ClassificationHead):
    """Mean, layer norm, linear, squared ReLU, layer norm, linear (ConvFormer and CAFormer, arXiv:2210.13452).

    Other arguments: see `ClassificationHead`.

    Args:
        mlp_ratio: width of the hidden layer as a multiple of `in_channels`.
        norm_eps: epsilon of the hidden layer's norm; that of the mean's norm is 1e-6.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        mlp_ratio: float = 4.0,
        norm_eps: float = 1e-5,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **kwargs)
        width = int(mlp_ratio * in_channels)
        self.norm = nn.LayerNorm(in_channels, eps=1e-6)
        self.hidden = linear(in_channels, width)
        self.hidden_norm = nn.LayerNorm(width, eps=norm_eps)
        self.fc = linear(width, num_classes)

    def scores(self, x: Tensor) -> Tensor:
        hidden = F.relu(self.hidden(self.norm(x.mean(dim=(1, 2))))).square()
        return self.fc(self.dropout(self.hidden_norm(hidden)))
