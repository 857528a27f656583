"""Neighborhood attention by torch's scaled_dot_product_attention, where the window covers the whole map."""

import torch.nn.functional as F
from torch import Tensor

from .arguments import Call
from .sequences import to_map, to_sequences
from .windows import Window


def _is_causal_sequence(call: Call) -> bool:
    """One axis, every query sees all tokens up to its own place."""
    return len(call.spatial) == 1 and call.window.is_causal[0] and call.window.kernel_size[0] == call.spatial[0]


def why_not(call: Call) -> str | None:
    if not (call.covers_everything or _is_causal_sequence(call)):
        return "it takes windows that cover the whole map, or a causal sequence with kernel_size equal to its length"
    if call.has_bias:
        return "it would have to expand rel_pos_bias to a matrix of tokens by tokens"
    if call.additional is not None and any(call.window.is_causal):
        return "it takes no additional tokens beside causal axes"
    if call.wants_lse:
        return "it gives no LSE"
    if call.forward_mode:
        return "it has no forward-mode derivative"
    return None


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_bias: None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    window: Window,
    scale: float,
    return_lse: bool = False,
) -> tuple[Tensor, None]:
    """As the reference, without the LSE; for calls that `why_not` lets through."""
    q, k, v = to_sequences(query, key, value, additional_keys, additional_values)
    # A branch, not the comparison alone: under torch.compile(dynamic=True) that is a symbol, which SDPA does not take.
    gqa = True if q.shape[1] != k.shape[1] else False
    out = F.scaled_dot_product_attention(q, k, v, is_causal=any(window.is_causal), scale=scale, enable_gqa=gqa)
    return to_map(out, query.shape[1:-2]), None
