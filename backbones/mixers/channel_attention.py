"""Self-attention among channels (DaViT, arXiv:2204.03645, and Florence-2, arXiv:2311.06242)."""

from torch import Tensor, nn

from ...registry import MIXERS
from ..layers import Linear
from ..layers.attention import split_heads

FORMS = ("davit", "florence2")


@MIXERS.register_module()
class ChannelAttention(nn.Module):
    """Each head's channels attend to each other over all tokens: (B, H, W, C) -> (B, H, W, C), any H and W.

    With Q, K and V (L, D) of a head of D channels and L tokens, the output is V A^T with A = softmax(s Q^T K), (D, D).
    The cost is linear in L. In the paper the weights are of q, k, v; which third of the projection is which, and s,
    are the release's:

    - 'davit': Q, K, V are the thirds 1, 2, 0 (the map is of keys and values, applied to queries), s = D ** -0.5;
    - 'florence2': the thirds in order, s = L ** -0.5.

    Args:
        dim: channels, a multiple of `num_heads`.
        num_heads: heads; None has one for every 32 channels, at least one.
        channel_form: 'davit' or 'florence2'.
        qkv_bias: whether the projection to q, k and v has a bias.

    Raises:
        ValueError: `num_heads` does not divide `dim`; no such form.
    """

    def __init__(
        self, dim: int, num_heads: int | None = None, channel_form: str = "davit", qkv_bias: bool = True
    ) -> None:
        super().__init__()
        self.num_heads = num_heads or max(dim // 32, 1)
        if dim % self.num_heads:
            raise ValueError(f"ChannelAttention: num_heads {self.num_heads} does not divide the {dim} channels")
        if channel_form not in FORMS:
            raise ValueError(f"ChannelAttention: no channel_form {channel_form!r}; there are {', '.join(FORMS)}")
        self.channel_form = channel_form
        self.qkv = Linear(dim, 3 * dim, bias=qkv_bias)
        self.proj = Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        height, width = x.shape[1:3]
        q, k, v = split_heads(self.qkv(x).flatten(1, 2), self.num_heads)
        if self.channel_form == "davit":
            q, k, v = k, v, q
            scale = q.shape[-1] ** -0.5
        else:
            scale = q.shape[-2] ** -0.5
        attn = (q.mT @ k * scale).softmax(dim=-1)
        x = v @ attn.mT
        return self.proj(x.transpose(1, 2).flatten(2)).unflatten(1, (height, width))
