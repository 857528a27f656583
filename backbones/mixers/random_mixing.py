"""A random matrix as the token mixer: the other yardstick of MetaFormer Baselines (arXiv:2210.13452)."""

import torch
from torch import Tensor, nn

from ...registry import MIXERS


@MIXERS.register_module()
class RandomMixing(nn.Module):
    """Each token becomes a fixed random mean of all tokens: (B, H, W, C) -> (B, H, W, C) where H W = `num_tokens`.

    The matrix, (num_tokens, num_tokens) with rows that sum to 1, is drawn once and never trained. It belongs to one
    number of tokens, so that a network of such mixers takes pictures of one size.

    Args:
        dim: channels; of no effect here, every mixer takes it.
        num_tokens: tokens of the map.

    Raises:
        ValueError: no `num_tokens`; a map of another number of tokens.
    """

    def __init__(self, dim: int, num_tokens: int | None = None) -> None:
        super().__init__()
        if num_tokens is None:
            raise ValueError(
                "RandomMixing: it needs num_tokens, H * W of its map, which a MetaFormer gives it where the backbone "
                "is told its img_size"
            )
        self.register_buffer("random_matrix", torch.rand(num_tokens, num_tokens).softmax(dim=-1))

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        if height * width != len(self.random_matrix):
            raise ValueError(
                f"RandomMixing: its matrix is for {len(self.random_matrix)} tokens, but this map has "
                f"{height} x {width} = {height * width}: give pictures of the img_size that the backbone was built "
                f"for, or build it with another img_size"
            )
        return (self.random_matrix @ x.flatten(1, 2)).view(batch, height, width, channels)
