"""Self-attention of all tokens to all (Transformer, arXiv:1706.03762)."""

from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import Linear, attention


@MIXERS.register_module()
class SelfAttention(nn.Module):
    """Multi-head attention over the whole map: (B, H, W, C) -> (B, H, W, C).

    No position enters. Time is quadratic in the number of tokens, memory is not.

    Args:
        dim: channels.
        num_heads: heads; None: as many heads of `head_dim` as fit in `dim`, at least one.
        head_dim: channels of a head.
        qkv_bias, proj_bias: whether the projections have biases; CAFormer's have none (arXiv:2210.13452).
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        head_dim: int = 32,
        qkv_bias: bool = False,
        proj_bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = max(dim // head_dim, 1) if num_heads is None else num_heads
        width = self.num_heads * head_dim
        self.qkv = Linear(dim, 3 * width, bias=qkv_bias)
        self.proj = Linear(width, dim, bias=proj_bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(attention(self.qkv(x).flatten(1, 2), self.num_heads)).view(x.shape)
