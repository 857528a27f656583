"""The operators of `torch.library`: schemas, fake tensors, derivatives. Kernels are attached to them a backend each.

`bestiary::selective_scan_forward` and `selective_scan_backward` are compiled code's (C++ on CPUs);
`selective_scan_triton_forward` and `_backward` are Triton's. They serve `selective_scan` (its groups are routes that
take the steps as they stand) and `scan_routes`. The arguments were checked by the caller.

What a kernel gives and takes (letters as in `reference.py`; R routes of D channels each, G maps, route r walks map
r // (R / G)):

- u (B, L, G, D); delta, z and out (B, L, R, D); B and C (B, L, R, N); with `steps_last` u (B, G, D, L), delta, z and
  out (B, R, D, L), B and C (B, R, N, L). One dtype for all, and any strides, 0 among them.
- A (R, D, N), D and delta_bias (R, D), initial_state and the last state (B, R, D, N), all in float32 (float64 for
  float64); routes (R, L) int64 or None, None: as the steps stand; all contiguous but initial_state.
- The third output, `states` (K, B, R, D, N): the states before the first step of each chunk of `chunk` steps of a
  route, K = ceil(L / chunk), which is all that the backward pass gets of the states. Within k, b and r their order is
  the kernel's own. A chunk of 0: none are kept.
- All outputs are contiguous. The gradients are those of u, delta, A, B, C, D, z, delta_bias and initial_state, in
  their shapes (without the strides) and dtypes; empty tensors in the places of D, z and delta_bias that were not given.
"""

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..tensors import needs_grad, wide_dtype
from .reference import selective_scan_reference

_TENSORS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C"
_OPTIONAL = "Tensor? D, Tensor? z, Tensor? delta_bias, Tensor? initial_state, Tensor? routes"
_OPTIONS = "bool delta_softplus, bool steps_last, int chunk"
FORWARD_SCHEMA = f"({_TENSORS}, {_OPTIONAL}, {_OPTIONS}) -> (Tensor, Tensor, Tensor)"
BACKWARD_SCHEMA = (
    f"(Tensor d_out, Tensor? d_last, Tensor states, {_TENSORS}, {_OPTIONAL}, {_OPTIONS})"
    " -> (Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor)"
)


def _fake_forward(u, delta, A, B, C, D, z, delta_bias, initial_state, routes, delta_softplus, steps_last, chunk):
    length = u.shape[-1] if steps_last else u.shape[1]
    state = u.shape[0], *A.shape
    kept = -(-length // chunk) if chunk else 0
    return delta.new_empty(delta.shape), A.new_empty(state), A.new_empty(kept, *state)


def _fake_backward(d_out, d_last, states, u, delta, A, B, C, D, z, delta_bias, *_):
    def like(tensor: Tensor | None, dtype: torch.dtype) -> Tensor:
        return u.new_empty(0 if tensor is None else tensor.shape, dtype=dtype)

    wide = wide_dtype(u)
    gradients = like(u, u.dtype), like(delta, u.dtype), like(A, wide), like(B, u.dtype), like(C, u.dtype)
    return *gradients, like(D, wide), like(z, u.dtype), like(delta_bias, wide), A.new_empty(u.shape[0], *A.shape)


def _definition(u, delta, A, B, C, D, z, delta_bias, initial_state, routes, delta_softplus, steps_last):
    """The output and the last state by the reference, in the operators' form."""
    count = A.shape[0]

    def along(x: Tensor | None, order: Tensor | None) -> Tensor | None:
        return x if x is None or order is None else x.gather(-1, order[None, :, None].expand_as(x))

    steps = [x if x is None or steps_last else x.permute(0, 2, 3, 1) for x in (u, delta, B, C, z)]
    steps[0] = steps[0].repeat_interleave(count // steps[0].shape[1], dim=1)
    u, delta, B, C, z = (along(x, routes) for x in steps)
    wide = [None if x is None else x.flatten(0, 1) for x in (A, D, delta_bias)]
    out, last = selective_scan_reference(
        u.flatten(1, 2), delta.flatten(1, 2), wide[0], B, C, wide[1], None if z is None else z.flatten(1, 2), wide[2],
        delta_softplus, None if initial_state is None else initial_state.flatten(1, 2),
    )  # fmt: skip
    sizes = A.shape[:2]
    out = along(out.unflatten(1, sizes), None if routes is None else routes.argsort(dim=1))
    return out if steps_last else out.permute(0, 3, 1, 2), last.unflatten(1, sizes)


def _save_for_second(ctx, inputs, output):
    d_out, d_last, _, *tensors, routes, ctx.delta_softplus, ctx.steps_last, _ = inputs
    ctx.save_for_backward(d_out, d_last, *tensors, routes)
    ctx.set_materialize_grads(False)


def _second_derivative(ctx, *grads):
    """The derivative of the backward operator: through the reference, slow but right (for penalties on gradients).

    Written with `torch.func`, so that it can itself be differentiated, any number of times.
    """
    d_out, d_last, *tensors, routes = ctx.saved_tensors
    has_last, given = d_last is not None, [i for i, tensor in enumerate(tensors) if tensor is not None]
    options = routes, ctx.delta_softplus, ctx.steps_last

    def forward(*some: Tensor) -> tuple[Tensor, ...]:
        places = dict(zip(given, some, strict=True))
        out, last = _definition(*(places.get(i) for i in range(len(tensors))), *options)
        return (out, last) if has_last else (out,)

    def backward(*seeds_and_some: Tensor) -> tuple[Tensor, ...]:
        seeds, some = seeds_and_some[: 1 + has_last], seeds_and_some[1 + has_last :]
        return torch.func.vjp(forward, *some)[1](seeds)

    inputs = [d_out] + [d_last] * has_last + [tensors[i] for i in given]
    first, pullback = torch.func.vjp(backward, *inputs)
    seeds = (
        torch.zeros_like(f) if grads[i] is None else grads[i].to(f.dtype) for i, f in zip(given, first, strict=True)
    )
    second = list(pullback(tuple(seeds)))
    d_seeds = [second.pop(0), second.pop(0) if has_last else None]
    # `states` are functions of the other inputs, through which their share was counted.
    return *d_seeds, None, *(second.pop(0) if i in given else None for i in range(len(tensors))), *[None] * 4


def _forward_operations(u, delta, A, *_, out_shape=None, **__) -> int:
    """The usual estimate, 9 multiply-adds a step and state (VMamba's)."""
    steps = 1
    for size in delta:
        steps *= size
    return 2 * 9 * steps * A[2]


def _backward_operations(d_out, d_last, states, u, delta, A, *_, out_shape=None, **__) -> int:
    return 2 * _forward_operations(u, delta, A)


def declare(name: str, kept_after: int) -> Callable[..., tuple[Tensor, Tensor]]:
    """Define `bestiary::<name>_forward` and `bestiary::<name>_backward` with everything but their kernels.

    Args:
        name: of the operators.
        kept_after: steps of a chunk where a gradient is wanted.

    Returns:
        The function that runs the forward operator, with its arguments but `chunk`, for the output and the last state.
        It is the operator itself but inside the transforms of `torch.func`, where derivatives registered with
        `torch.library` are not looked up (PyTorch 2.14): there it is an autograd.Function around the same operators.
    """
    forward_name, backward_name = f"bestiary::{name}_forward", f"bestiary::{name}_backward"
    tags = (torch.Tag.pt2_compliant_tag,)
    torch.library.define(forward_name, FORWARD_SCHEMA, tags=tags)
    torch.library.define(backward_name, BACKWARD_SCHEMA, tags=tags)
    torch.library.register_fake(forward_name, _fake_forward)
    torch.library.register_fake(backward_name, _fake_backward)
    forward_operator = getattr(torch.ops.bestiary, f"{name}_forward")
    backward_operator = getattr(torch.ops.bestiary, f"{name}_backward")
    register_flop_formula(forward_operator)(_forward_operations)
    register_flop_formula(backward_operator)(_backward_operations)

    def save_for_backward(ctx, inputs, output):
        *tensors, ctx.delta_softplus, ctx.steps_last, ctx.chunk = inputs
        ctx.save_for_backward(*tensors, output[2])
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)

    def first_derivative(run: Callable[..., tuple[Tensor, ...]], ctx, d_out, d_last, _):
        *tensors, states = ctx.saved_tensors  # once: checkpointing makes them again at each access
        options, chunk = (ctx.delta_softplus, ctx.steps_last), ctx.chunk
        if not chunk:  # the call was made as one that no gradient is asked of
            chunk = kept_after
            with torch.no_grad():
                states = forward_operator(*tensors, *options, chunk)[2]
        if d_out is None:  # only the last state was used
            d_out = torch.zeros_like(tensors[1])
        grads = list(run(d_out, d_last, states, *tensors, *options, chunk))
        given = [grad if tensor is not None else None for grad, tensor in zip(grads, tensors[:9], strict=True)]
        return *given, None, None, None, None

    backward = functools.partial(first_derivative, backward_operator)
    torch.library.register_autograd(forward_name, backward, setup_context=save_for_backward)
    torch.library.register_autograd(backward_name, _second_derivative, setup_context=_save_for_second)

    class Backward(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(backward_operator)
        setup_context = staticmethod(_save_for_second)
        backward = staticmethod(_second_derivative)

    class Forward(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(forward_operator)
        setup_context = staticmethod(save_for_backward)
        backward = staticmethod(functools.partial(first_derivative, Backward.apply))

    def run(
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        initial_state: Tensor | None,
        routes: Tensor | None,
        delta_softplus: bool,
        steps_last: bool,
    ) -> tuple[Tensor, Tensor]:
        arguments = u, delta, A, B, C, D, z, delta_bias, initial_state, routes, delta_softplus, steps_last
        if torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling():
            return Forward.apply(*arguments, kept_after)[:2]
        if needs_grad(u, delta, A, B, C, D, z, delta_bias, initial_state):
            return forward_operator(*arguments, kept_after)[:2]
        if torch.compiler.is_compiling():
            return forward_operator(*arguments, 0)[:2]
        # Derivatives registered with `torch.library` are looked up in Python, 6 us a call, wanted or not.
        with torch._C._AutoDispatchBelowAutograd():
            return forward_operator(*arguments, 0)[:2]

    return run


run_scan = declare("selective_scan", 32)
run_scan_triton = declare("selective_scan_triton", 64)
