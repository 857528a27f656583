"""Neighborhood attention as a token mixer (NAT, arXiv:2204.07143; DiNAT, arXiv:2209.15001)."""

from ...kernels import NeighborhoodAttention2D
from ...registry import MIXERS
from ..layers import Linear


@MIXERS.register_module()
class Neighborhood(NeighborhoodAttention2D):
    """Every token attends to a window around it: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels.
        num_heads: heads; None has one for 32 channels.
        kernel_size: side of the window in tokens; odd.
        dilation: distance between the tokens of a window.
        qkv_bias: whether the projection to queries, keys and values has a bias.
        rel_pos_bias: learn a bias for each distance, as all released networks do.
        small_maps: where a map is smaller than kernel_size * dilation: 'pad', 'mask' or 'error', see
            `NeighborhoodAttention2D`.

    Raises:
        ValueError: `num_heads` does not divide `dim`; `kernel_size` is even.
    """

    NO_WEIGHT_DECAY = ("rpb",)

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        kernel_size: int = 7,
        dilation: int = 1,
        qkv_bias: bool = True,
        rel_pos_bias: bool = True,
        small_maps: str = "pad",
    ) -> None:
        num_heads = max(dim // 32, 1) if num_heads is None else num_heads
        if kernel_size % 2 == 0:
            raise ValueError(f"Neighborhood: kernel_size {kernel_size} must be odd")
        super().__init__(
            dim,
            num_heads,
            kernel_size,
            dilation=dilation,
            qkv_bias=qkv_bias,
            rel_pos_bias=rel_pos_bias,
            small_maps=small_maps,
        )
        self.qkv, self.proj = Linear(dim, 3 * dim, bias=qkv_bias), Linear(dim, dim)  # quicker on some processors
