"""Self-attention of all tokens with a convolution beside it (BiFormer's last stage, arXiv:2303.08810)."""

from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import DepthwiseConv, Linear, attention


@MIXERS.register_module()
class LepeAttention(nn.Module):
    """Multi-head attention over the whole map plus a depthwise convolution: (B, H, W, C) -> (B, H, W, C).

    Args:
        dim: channels.
        num_heads: heads; None has one for 32 channels.
        lepe_of: what the convolution sees: 'x', the input, as the released BiFormers have it; 'v', the values, as their
            rewrite for NCHW maps.
        side_dwconv: side of its kernel in tokens; odd.
        qkv_bias: whether the projection to queries, keys and values has a bias.

    Raises:
        ValueError: `num_heads` does not divide `dim`; no such `lepe_of`.
    """

    def __init__(
        self,
        dim: int,
        num_heads: int | None = None,
        lepe_of: str = "x",
        side_dwconv: int = 5,
        qkv_bias: bool = False,
    ) -> None:
        super().__init__()
        self.num_heads = max(dim // 32, 1) if num_heads is None else num_heads
        if dim % self.num_heads:
            raise ValueError(f"LepeAttention: num_heads {self.num_heads} must divide dim {dim}")
        if lepe_of not in ("x", "v"):
            raise ValueError(f"LepeAttention: lepe_of {lepe_of!r} must be x or v")
        self.lepe_of = lepe_of
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.lepe = DepthwiseConv(dim, side_dwconv)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.qkv(x)
        lepe = self.lepe(x if self.lepe_of == "x" else qkv.chunk(3, -1)[2])
        return self.proj(attention(qkv.flatten(1, 2), self.num_heads).view(x.shape) + lepe)
