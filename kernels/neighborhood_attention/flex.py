"""Neighborhood attention by torch's FlexAttention (arXiv:2412.05496), compiled for each kind of call of its own.

The index rule becomes a mask function, the bias a score function; additional tokens are appended to the keys.
"""

import functools
import itertools
import math
import types
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import build
from .arguments import Call, refusal
from .sequences import to_map, to_sequences
from .windows import Window, key_range, neighbors

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK_SIZE = 128  # tokens; queries and keys are skipped or computed in squares of so many
_counter = itertools.count()


def why_not(call: Call) -> str | None:
    if torch.compiler.is_compiling():
        return "it is compiled by itself, and cannot be traced as a part of something else"
    if reason := refusal(call, ("cpu", "cuda"), DTYPES, empty=False):
        return reason
    if call.device.type == "cpu":
        if call.needs_grad:
            return "FlexAttention has no backward on CPUs"
        if call.wants_lse:
            return "compiled FlexAttention gives no LSE on CPUs"
        return None if build.compiler() else "there is no C++ compiler, which torch.compile needs on CPUs"
    if min(call.channels, call.value_channels) < 16:
        return f"it needs 16 channels a head on GPUs, got {call.channels} and {call.value_channels}"
    if call.has_bias and call.needs_grad and torch.are_deterministic_algorithms_enabled():
        return "its gradient of rel_pos_bias is not deterministic"
    return None


class Map(NamedTuple):
    """What the masks depend on."""

    spatial: tuple[int, ...]
    window: Window
    additional: int
    device: torch.device

    @property
    def tokens(self) -> int:
        return math.prod(self.spatial)


def _axes(shape: Map):
    """(length, k, s, d, causal) of every axis, the last axis first: as a token's number is taken apart."""
    return tuple(zip(shape.spatial, *shape.window, strict=True))[::-1]


def mask_function(shape: Map) -> Callable[..., Tensor]:
    """The index rule as FlexAttention's mask_mod: does query token i see key token j?"""

    def seen(batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        inside = j < shape.tokens
        query, key = i, j
        for length, k, s, d, causal in _axes(shape):
            at, key_at = query % length, key % length
            query, key = query // length, key // length
            group = at % d
            start, end = key_range(at // d, (length - group + d - 1) // d, k, s, causal)
            inside = inside & (key_at % d == group) & (key_at // d >= start) & (key_at // d < end)
        return inside | (j >= shape.tokens) if shape.additional else inside

    return seen


def bias_function(shape: Map, bias: Tensor) -> Callable[..., Tensor]:
    """rel_pos_bias, (H, all entries of the table), as FlexAttention's score_mod."""

    def biased(score: Tensor, batch: Tensor, head: Tensor, i: Tensor, j: Tensor) -> Tensor:
        query, key, index, width = i, j, 0, 1
        for length, k, _, d, _ in _axes(shape):
            offset = (key % length) // d - (query % length) // d + k - 1
            # Called for pairs outside of the window as well, whose scores are dropped afterwards.
            index = index + width * offset.clamp(0, 2 * k - 2)
            query, key, width = query // length, key // length, width * (2 * k - 1)
        entry = bias[head, index]
        return torch.where(j < shape.tokens, score + entry, score) if shape.additional else score + entry

    return biased


@functools.lru_cache(maxsize=256)
def block_mask(shape: Map, block_size: int = BLOCK_SIZE):
    """The BlockMask: which squares of queries and keys to compute, and which of them wholly.

    Counted from the keys of each query, so that nothing of the size tokens by tokens is made.
    """
    from torch.nn.attention.flex_attention import BlockMask

    tokens, blocks = shape.tokens, -(-shape.tokens // block_size)
    key_blocks = -(-(tokens + shape.additional) // block_size)
    counts = torch.zeros(blocks * key_blocks, dtype=torch.int64)
    rows = max(1, (1 << 22) // max(1, math.prod(shape.window.kernel_size)))
    for first in range(0, tokens, rows):
        token = torch.arange(first, min(first + rows, tokens))
        index, seen, _ = neighbors(shape.spatial, shape.window, tokens=token)
        square = (token // block_size)[:, None] * key_blocks + index // block_size
        counts += torch.bincount(square[seen], minlength=len(counts))
    counts = counts.view(blocks, key_blocks)
    if shape.additional:
        queries = torch.full((blocks,), block_size)
        queries[-1] = tokens - (blocks - 1) * block_size
        extra = torch.bincount(torch.arange(tokens, tokens + shape.additional) // block_size, minlength=key_blocks)
        counts += queries[:, None] * extra

    def ordered(chosen: Tensor) -> tuple[Tensor, Tensor]:
        """How many squares of each row, and their columns in front of the rest; (1, 1, rows), (1, 1, rows, columns)."""
        columns = chosen.to(torch.int8).argsort(dim=-1, descending=True, stable=True)
        return tuple(t.to(shape.device, torch.int32)[None, None] for t in (chosen.sum(-1), columns))

    full = counts == block_size * block_size
    return BlockMask.from_kv_blocks(
        *ordered((counts > 0) & ~full), *ordered(full), BLOCK_SIZE=block_size, mask_mod=mask_function(shape),
        seq_lengths=(tokens, tokens + shape.additional),
    )  # fmt: skip


@functools.lru_cache(maxsize=256)
def _attention(shape: Map, scale: float, return_lse: bool, gqa: bool, block_size: int, compiled: bool, seen: tuple):
    """A function of query, key, value (all heads first) and bias, compiled for this kind of call alone.

    dynamo compiles a function for at most 8 kinds of calls, and then silently leaves it uncompiled. So there is a
    function, with a code object of its own, for each kind; `seen` holds all else that it is specialized for.
    """
    from torch.nn.attention.flex_attention import AuxRequest, flex_attention

    mask = block_mask(shape, block_size)

    def attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None):
        out = flex_attention(
            query, key, value, None if bias is None else bias_function(shape, bias), mask, scale, gqa,
            return_aux=AuxRequest(lse=True) if return_lse else None,
        )  # fmt: skip
        return (out[0], out[1].lse) if return_lse else (out, None)

    if not compiled:
        return attention
    code = attention.__code__.replace(co_name=f"attention_{next(_counter)}")
    own = types.FunctionType(code, attention.__globals__, code.co_name, None, attention.__closure__)
    return torch.compile(own, dynamic=False, fullgraph=True)


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_bias: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    window: Window,
    scale: float,
    return_lse: bool = False,
    block_size: int = BLOCK_SIZE,
    compiled: bool = True,
) -> tuple[Tensor, Tensor | None]:
    """As the reference; for calls that `why_not` lets through.

    The first call of a kind compiles, which takes seconds. Uncompiled it makes the matrix of all scores: for tests.
    """
    shape = Map(
        tuple(query.shape[1:-2]), window, 0 if additional_keys is None else additional_keys.shape[1], query.device
    )
    tensors = [
        *to_sequences(query, key, value, additional_keys, additional_values),
        None if rel_pos_bias is None else rel_pos_bias.float().flatten(1),
    ]
    if not torch.is_grad_enabled():  # FlexAttention asks for requires_grad alone
        tensors = [None if t is None else t.detach() for t in tensors]
    seen = tuple(None if t is None else (t.shape, t.stride(), t.dtype, t.requires_grad) for t in tensors)
    gqa = query.shape[-2] != key.shape[-2]
    attention = _attention(shape, scale, return_lse, gqa, block_size, compiled, (seen, torch.is_grad_enabled()))
    out, lse = attention(*tensors)
    return to_map(out, shape.spatial), None if lse is None else to_map(lse, shape.spatial)
