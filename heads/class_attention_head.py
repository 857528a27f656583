"""Class attention: a token asks the map, in place of the map's mean (CaiT, arXiv:2103.17239)."""

from functools import partial
from typing import Any

import torch
from timm.layers import trunc_normal_
from timm.models.cait import LayerScaleBlockClassAttn
from torch import Tensor, nn

from ..registry import MODELS
from .base import ClassificationHead, linear


@MODELS.register_module()
class ClassAttentionHead(ClassificationHead):
    """A learnt token that attends to itself and to the map in `depth` blocks, norm, linear; blocks are timm's.

    Each block: class attention, MLP, both added to the token, behind a layer norm and with a factor a channel. What
    the token looks at differs by picture and class, where the mean takes every place alike. Other arguments and errors:
    see `ClassificationHead`.

    Args:
        num_heads: of the attention; they divide `in_channels`. CaiT has one for every 48 channels.
        depth: blocks, 2 in CaiT.
        mlp_ratio: width of the hidden layer as a multiple of `in_channels`.
        layer_scale_init: what the factors start from. CaiT's 1e-5 is for deep networks and long training.
        drop_path_rate: of the blocks, in 0..1.
        norm_eps: epsilon of the norms.

    Raises:
        ValueError: `num_heads` does not divide `in_channels`.
    """

    NO_WEIGHT_DECAY = ("cls_token",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        num_heads: int = 4,
        depth: int = 2,
        mlp_ratio: float = 4.0,
        layer_scale_init: float = 0.1,
        drop_path_rate: float = 0.0,
        norm_eps: float = 1e-6,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels, num_classes, **kwargs)
        if in_channels % num_heads:
            raise ValueError(f"ClassAttentionHead: num_heads {num_heads} does not divide in_channels {in_channels}")
        norm = partial(nn.LayerNorm, eps=norm_eps)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, in_channels))
        self.blocks = nn.ModuleList(
            LayerScaleBlockClassAttn(
                in_channels,
                num_heads,
                mlp_ratio,
                qkv_bias=True,
                drop_path=drop_path_rate,
                norm_layer=norm,
                init_values=layer_scale_init,
            )
            for _ in range(depth)
        )
        self.norm = norm(in_channels)
        self.fc = linear(in_channels, num_classes)
        trunc_normal_(self.cls_token, std=0.02)
        for layer in self.blocks.modules():
            if isinstance(layer, nn.Linear):
                trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def scores(self, x: Tensor) -> Tensor:
        places = x.flatten(1, 2)
        token = self.cls_token.expand(len(x), -1, -1)
        for block in self.blocks:
            token = block(places, token)
        return self.fc(self.dropout(self.norm(token)[:, 0]))
