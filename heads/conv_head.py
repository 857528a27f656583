"""A 1 x 1 convolution, mean over the map, one linear layer."""

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from ..backbones.layers.conv_bn import ConvBN
from ..registry import MODELS
from .base import ClassificationHead, linear


@MODELS.register_module()
class ConvHead(ClassificationHead):
    """Convolution, batch norm, ReLU6, mean, linear (MobileNetV2, arXiv:1801.04381). Others: see `ClassificationHead`.

    Args:
        hidden_channels: of the convolution's output.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        hidden_channels: int = 1280,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **kwargs)
        self.conv = ConvBN(in_channels, hidden_channels)
        nn.init.kaiming_normal_(self.conv.conv.weight, mode="fan_out")
        self.fc = linear(hidden_channels, num_classes)

    def scores(self, x: Tensor) -> Tensor:
        x = F.relu6(self.conv(x.permute(0, 3, 1, 2)), inplace=True)
        return self.fc(self.dropout(x.mean((2, 3))))
