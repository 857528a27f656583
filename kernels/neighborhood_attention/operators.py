"""The operators of `torch.library`: schemas, fake tensors, derivatives. Kernels are attached to them a backend each.

`bestiary::na_forward` and `na_backward` are compiled code's (C++ on CPUs, CUDA C++); `na_triton_forward` and
`na_triton_backward` are Triton's. Letters as in `reference.py`; the arguments were checked by the caller.
"""

import torch
from torch import Tensor

from .reference import neighborhood_attention_reference
from .windows import Window

_TENSORS = "Tensor query, Tensor key, Tensor value"
_OPTIONAL = "Tensor? rel_pos_bias, Tensor? additional_keys, Tensor? additional_values"
_WINDOW = "int[] kernel_size, int[] stride, int[] dilation, int[] is_causal, float scale"
FORWARD_SCHEMA = f"({_TENSORS}, {_OPTIONAL}, {_WINDOW}) -> (Tensor, Tensor)"
BACKWARD_SCHEMA = (
    f"(Tensor d_out, Tensor? d_lse, {_TENSORS}, Tensor out, Tensor lse, {_OPTIONAL}, {_WINDOW})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _lse_dtype(query: Tensor) -> torch.dtype:
    return torch.promote_types(query.dtype, torch.float32)


def _fake_forward(query, key, value, rel_pos_bias, additional_keys, additional_values, *window_and_scale):
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    return out, query.new_empty(query.shape[:-1], dtype=_lse_dtype(query))


def _fake_backward(d_out, d_lse, query, key, value, out, lse, rel_pos_bias, additional_keys, additional_values, *_):
    def like(tensor: Tensor | None, dtype: torch.dtype = query.dtype) -> Tensor:
        return query.new_empty(0 if tensor is None else tensor.shape, dtype=dtype)

    optional = like(rel_pos_bias, _lse_dtype(query)), like(additional_keys), like(additional_values)
    return like(query), like(key), like(value), *optional


def _second_derivative(ctx, *grads):
    """The derivative of the backward operator: through the reference, slow but right (for penalties on gradients)."""
    d_out, d_lse, query, key, value, rel_pos_bias, additional_keys, additional_values = ctx.saved_tensors
    *window, scale = ctx.window_and_scale
    window = Window(*(tuple(entry) for entry in window))
    with torch.enable_grad():
        tensors = [query, key, value, rel_pos_bias, additional_keys, additional_values]
        leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
        seeds = [None if t is None else t.detach().requires_grad_() for t in (d_out, d_lse)]
        out, lse = neighborhood_attention_reference(*leaves, window, scale)
        kept = [leaf for leaf in leaves if leaf is not None]
        pairs = [(o, s) for o, s in zip((out, lse), seeds, strict=True) if s is not None]
        first = torch.autograd.grad(*zip(*pairs, strict=True), inputs=kept, create_graph=True, materialize_grads=True)
        wanted = [s for s in seeds if s is not None] + kept
        given = iter(first)
        pairs = [(next(given), g) for leaf, g in zip(leaves, grads, strict=True) if leaf is not None]
        pairs = [(f, g.to(f.dtype)) for f, g in pairs if g is not None]
        second = iter(torch.autograd.grad(*zip(*pairs, strict=True), inputs=wanted, materialize_grads=True))
    d_seeds = [None if s is None else next(second) for s in seeds]
    d_leaves = [None if leaf is None else next(second) for leaf in leaves]
    # `out` and `lse` are functions of the other inputs, through which their share was counted.
    return *d_seeds, *d_leaves[:3], None, None, *d_leaves[3:], None, None, None, None, None


def declare(name: str) -> None:
    """Define `bestiary::<name>_forward` and `bestiary::<name>_backward` with everything but their kernels."""
    forward_name, backward_name = f"bestiary::{name}_forward", f"bestiary::{name}_backward"
    tags = (torch.Tag.pt2_compliant_tag,)
    torch.library.define(forward_name, FORWARD_SCHEMA, tags=tags)
    torch.library.define(backward_name, BACKWARD_SCHEMA, tags=tags)
    torch.library.register_fake(forward_name, _fake_forward)
    torch.library.register_fake(backward_name, _fake_backward)
    backward_operator = getattr(torch.ops.bestiary, f"{name}_backward")

    def save_for_backward(ctx, inputs, output):
        *tensors, ctx.kernel_size, ctx.stride, ctx.dilation, ctx.is_causal, ctx.scale = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.set_materialize_grads(False)

    def backward(ctx, d_out, d_lse):
        query, key, value, rel_pos_bias, additional_keys, additional_values, out, lse = ctx.saved_tensors
        optional = rel_pos_bias, additional_keys, additional_values
        if d_out is None:  # only the LSE was used
            d_out = torch.zeros_like(out)
        elif d_out.stride(-1) != 1:
            d_out = d_out.contiguous()
        grads = backward_operator(
            d_out, d_lse, query, key, value, out, lse, *optional,
            ctx.kernel_size, ctx.stride, ctx.dilation, ctx.is_causal, ctx.scale,
        )  # fmt: skip
        some = [None if tensor is None else grad for tensor, grad in zip(optional, grads[3:], strict=True)]
        return *grads[:3], *some, None, None, None, None, None

    def save_for_second(ctx, inputs, output):
        d_out, d_lse, query, key, value, _, _, *optional = inputs[:10]
        ctx.window_and_scale = inputs[10:]
        ctx.save_for_backward(d_out, d_lse, query, key, value, *optional)

    torch.library.register_autograd(forward_name, backward, setup_context=save_for_backward)
    torch.library.register_autograd(backward_name, _second_derivative, setup_context=save_for_second)


declare("na")
declare("na_triton")
