"""The operators of `torch.library`: schemas, fake tensors, derivatives. Kernels are attached to them a backend each.

`bestiary::na_forward` and `na_backward` are compiled code's (C++ on CPUs, CUDA C++); `na_triton_forward` and
`na_triton_backward` are Triton's. Letters as in `reference.py`; the arguments were checked by the caller.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from ..tensors import needs_grad, wide_dtype
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


def _fake_forward(query, key, value, rel_pos_bias, additional_keys, additional_values, *window_and_scale):
    out = query.new_empty(*query.shape[:-1], value.shape[-1])
    return out, query.new_empty(query.shape[:-1], dtype=wide_dtype(query))


def _fake_backward(d_out, d_lse, query, key, value, out, lse, rel_pos_bias, additional_keys, additional_values, *_):
    def like(tensor: Tensor | None, dtype: torch.dtype = query.dtype) -> Tensor:
        return query.new_empty(0 if tensor is None else tensor.shape, dtype=dtype)

    optional = like(rel_pos_bias, wide_dtype(query)), like(additional_keys), like(additional_values)
    return like(query), like(key), like(value), *optional


def _second_derivative(ctx, *grads):
    """The derivative of the backward operator: through the reference, slow but right (for penalties on gradients).

    Written with `torch.func`, so that it can itself be differentiated, any number of times.
    """
    d_out, d_lse, *tensors = ctx.saved_tensors
    *window, scale = ctx.window_and_scale
    window = Window(*(tuple(entry) for entry in window))
    has_lse, given = d_lse is not None, [i for i, tensor in enumerate(tensors) if tensor is not None]

    def forward(*some: Tensor) -> tuple[Tensor, ...]:
        places = dict(zip(given, some, strict=True))
        out, lse = neighborhood_attention_reference(*(places.get(i) for i in range(len(tensors))), window, scale)
        return (out, lse) if has_lse else (out,)

    def backward(*seeds_and_some: Tensor) -> tuple[Tensor, ...]:
        seeds, some = seeds_and_some[: 1 + has_lse], seeds_and_some[1 + has_lse :]
        return torch.func.vjp(forward, *some)[1](seeds)

    inputs = [d_out] + [d_lse] * has_lse + [tensors[i] for i in given]
    first, pullback = torch.func.vjp(backward, *inputs)
    second = list(pullback(tuple(grads[i].to(f.dtype) for i, f in zip(given, first, strict=True))))
    d_seeds = [second.pop(0), second.pop(0) if has_lse else None]
    d_tensors = [second.pop(0) if i in given else None for i in range(len(tensors))]
    # `out` and `lse` are functions of the other inputs, through which their share was counted.
    return *d_seeds, *d_tensors[:3], None, None, *d_tensors[3:], None, None, None, None, None


def declare(name: str) -> Callable[..., tuple[Tensor, Tensor]]:
    """Define `bestiary::<name>_forward` and `bestiary::<name>_backward` with everything but their kernels.

    Returns:
        The function that runs the forward operator. It is the operator itself but inside the transforms of
        `torch.func`, where derivatives registered with `torch.library` are not looked up (PyTorch 2.14): there it is
        an autograd.Function around the same operators.
    """
    forward_name, backward_name = f"bestiary::{name}_forward", f"bestiary::{name}_backward"
    tags = (torch.Tag.pt2_compliant_tag,)
    torch.library.define(forward_name, FORWARD_SCHEMA, tags=tags)
    torch.library.define(backward_name, BACKWARD_SCHEMA, tags=tags)
    torch.library.register_fake(forward_name, _fake_forward)
    torch.library.register_fake(backward_name, _fake_backward)
    forward_operator = getattr(torch.ops.bestiary, f"{name}_forward")
    backward_operator = getattr(torch.ops.bestiary, f"{name}_backward")

    def save_for_backward(ctx, inputs, output):
        *tensors, ctx.kernel_size, ctx.stride, ctx.dilation, ctx.is_causal, ctx.scale = inputs
        ctx.save_for_backward(*tensors, *output)
        ctx.set_materialize_grads(False)

    def first_derivative(run: Callable[..., tuple[Tensor, ...]], ctx, d_out, d_lse):
        query, key, value, rel_pos_bias, additional_keys, additional_values, out, lse = ctx.saved_tensors
        optional = rel_pos_bias, additional_keys, additional_values
        if d_out is None:  # only the LSE was used
            d_out = torch.zeros_like(out)
        elif d_out.stride(-1) != 1:
            d_out = d_out.contiguous()
        grads = run(
            d_out, d_lse, query, key, value, out, lse, *optional,
            ctx.kernel_size, ctx.stride, ctx.dilation, ctx.is_causal, ctx.scale,
        )  # fmt: skip
        some = [None if tensor is None else grad for tensor, grad in zip(optional, grads[3:], strict=True)]
        return *grads[:3], *some, None, None, None, None, None

    def save_for_second(ctx, inputs, output):
        d_out, d_lse, query, key, value, _, _, *optional = inputs[:10]
        ctx.window_and_scale = inputs[10:]
        ctx.save_for_backward(d_out, d_lse, query, key, value, *optional)

    backward = functools.partial(first_derivative, backward_operator)
    torch.library.register_autograd(forward_name, backward, setup_context=save_for_backward)
    torch.library.register_autograd(backward_name, _second_derivative, setup_context=save_for_second)

    class Backward(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(backward_operator)
        setup_context = staticmethod(save_for_second)
        backward = staticmethod(_second_derivative)

    class Forward(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(forward_operator)
        setup_context = staticmethod(save_for_backward)
        backward = staticmethod(functools.partial(first_derivative, Backward.apply))

    def run(*arguments) -> tuple[Tensor, Tensor]:
        if torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling():
            return Forward.apply(*arguments)
        if torch.compiler.is_compiling() or needs_grad(*arguments[:6]):
            return forward_operator(*arguments)
        # Derivatives registered with `torch.library` are looked up in Python, 6 us a call, wanted or not.
        with torch._C._AutoDispatchBelowAutograd():
            return forward_operator(*arguments)

    return run


run_na = declare("na")
run_na_triton = declare("na_triton")
