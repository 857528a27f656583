"""Self-attention within windows, without shift, bias or mask (DaViT, arXiv:2204.03645)."""

from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import Linear, attention, crop, pad_to_multiple, window_partition, window_reverse


@MIXERS.register_module()
class WindowAttention(nn.Module):
    """Multi-head attention among the tokens of each window: (B, H, W, C) -> (B, H, W, C), any H and W.

    Where a side is no multiple of the window's, the map is padded with zeros at the bottom and the right, and the
    padding is not masked: its keys and values are the projection's biases, and take part in the softmax. So the
    released weights were trained.

    Args:
        dim: channels, a multiple of `num_heads`.
        num_heads: heads; None has one for every 32 channels, at least one.
        window_size: side of a window in tokens, or height and width.
        qkv_bias: whether the projection to q, k and v has a bias.

    Raises:
        ValueError: `num_heads` does not divide `dim`; a window of less than one token.
    """

    def __init__(
        self, dim: int, num_heads: int | None = None, window_size: int | tuple[int, int] = 7, qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads or max(dim // 32, 1)
        if dim % self.num_heads:
            raise ValueError(f"WindowAttention: num_heads {self.num_heads} does not divide the {dim} channels")
        self.window_size = (window_size, window_size) if isinstance(window_size, int) else tuple(window_size)
        if len(self.window_size) != 2 or min(self.window_size) < 1:
            raise ValueError(f"WindowAttention: window_size {window_size} must be a side, or height and width, of 1 up")
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        size = x.shape[1:3]
        x = pad_to_multiple(x, self.window_size)
        padded = x.shape[1:3]
        x = self.attend(window_partition(x, self.window_size))
        return crop(window_reverse(x, self.window_size, padded), size)

    def attend(self, x: Tensor) -> Tensor:
        """Windows (B * N, h * w, C) -> the same shape."""
        return self.proj(attention(self.qkv(x), self.num_heads))
