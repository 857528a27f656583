"""The operators of `torch.library`: schemas, fake tensors, derivatives. Kernels are attached to them a backend each.

`bestiary::bi_level_routing_forward` and `bi_level_routing_backward` are compiled code's (C++ on CPUs);
`bi_level_routing_triton_forward` and `_backward` are Triton's. Letters as in `regions.py`; the arguments were checked
by the caller, q, k, v, lepe and d_out have a last axis of stride 1 (other axes any), the others are contiguous.

What a kernel gives and takes:

- forward: `out` (B, H, W, N, E), contiguous, in the dtype of q, with `lepe` added where there is one; `lse`
  (B, H, W, N) in float32 (float64 for float64), the logarithm of the softmax's denominator, of scores that hold the
  scale and the weights; 0 where a query sees no key.
- `index` (B, R, K) int64 may name a region more than once: each time counts. `weights` (B, R, K) are float32 (float64
  for float64). `mask` (B, H', W'): what lies under it must not matter, not even a NaN, and gets gradients of 0.
- backward: gradients of q, k, v (contiguous, in their dtype) and of the weights (in theirs; without weights an empty
  tensor). It has no `out`: the row sums of P dP, which others take as sums of d_out * out, are of the row itself.
  Otherwise `lepe` would have to be kept as well.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..tensors import needs_grad, wide_dtype
from .reference import bi_level_routing_attention_reference
from .regions import Routing

_ROUTING = "Tensor? mask, Tensor index, Tensor? weights, int[] grid, float scale"
FORWARD_SCHEMA = f"(Tensor q, Tensor k, Tensor v, Tensor? lepe, {_ROUTING}) -> (Tensor, Tensor)"
BACKWARD_SCHEMA = (
    f"(Tensor d_out, Tensor q, Tensor k, Tensor v, Tensor lse, {_ROUTING}) -> (Tensor, Tensor, Tensor, Tensor)"
)


def _fake_forward(q, k, v, lepe, mask, index, weights, grid, scale):
    return q.new_empty(*q.shape[:-1], v.shape[-1]), q.new_empty(q.shape[:-1], dtype=wide_dtype(q))


def _fake_backward(d_out, q, k, v, lse, mask, index, weights, grid, scale):
    gradients = (x.new_empty(x.shape) for x in (q, k, v))
    return *gradients, q.new_empty(0 if weights is None else weights.shape, dtype=wide_dtype(q))


def _save_for_backward(ctx, inputs, output):
    q, k, v, _, mask, index, weights, ctx.grid, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, output[1], mask, index, weights)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _first_derivative(run: Callable[..., tuple[Tensor, ...]], ctx, d_out, _):
    q, k, v, lse, mask, index, weights = ctx.saved_tensors
    if d_out is None:
        return (None,) * 9
    seed = d_out if d_out.stride(-1) == 1 else d_out.contiguous()
    d_q, d_k, d_v, d_weights = run(seed, q, k, v, lse, mask, index, weights, ctx.grid, ctx.scale)
    d_lepe = d_out if ctx.needs_input_grad[3] else None
    return d_q, d_k, d_v, d_lepe, None, None, None if weights is None else d_weights, None, None


def _save_for_second(ctx, inputs, output):
    d_out, q, k, v, _, mask, index, weights, ctx.grid, ctx.scale = inputs
    ctx.save_for_backward(d_out, q, k, v, weights, mask, index)
    ctx.set_materialize_grads(False)


def _second_derivative(ctx, *grads):
    """The derivative of the backward operator: through the reference, slow but right (for penalties on gradients).

    Written with `torch.func`, so that it can itself be differentiated, any number of times.
    """
    d_out, q, k, v, weights, mask, index = ctx.saved_tensors
    grid, scale = tuple(ctx.grid), ctx.scale

    def forward(q: Tensor, k: Tensor, v: Tensor, weights: Tensor | None = None) -> Tensor:
        return bi_level_routing_attention_reference(q, k, v, None, mask, Routing(index, weights), grid, scale)

    def backward(seed: Tensor, *learnt: Tensor) -> tuple[Tensor, ...]:
        return torch.func.vjp(forward, *learnt)[1](seed)

    learnt = [q, k, v] if weights is None else [q, k, v, weights]
    first, pullback = torch.func.vjp(backward, d_out, *learnt)
    seeds = (torch.zeros_like(f) if g is None else g.to(f.dtype) for g, f in zip(grads, first, strict=False))
    d_seed, *d_learnt = pullback(tuple(seeds))
    # `lse` is a function of the other inputs, through which its share was counted.
    return d_seed, *d_learnt[:3], None, None, None, None if weights is None else d_learnt[3], None, None


def _operations(q, k, v, index) -> int:
    """What the products of q k^T and of the weights with v cost, of all routed keys, as if they were gathered."""
    regions, chosen = index[1], index[2]
    keys = chosen * (k[1] * k[2] // regions)
    return 2 * math.prod(q[:-1]) * keys * (q[-1] + v[-1])


def _forward_operations(q, k, v, lepe, mask, index, *_, out_shape=None, **__) -> int:
    return _operations(q, k, v, index)


def _backward_operations(d_out, q, k, v, lse, mask, index, *_, out_shape=None, **__) -> int:
    """Two products for each of the forward's, as of any product; that the scores are computed again is not counted."""
    return 2 * _operations(q, k, v, index)


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
    register_flop_formula(forward_operator)(_forward_operations)
    register_flop_formula(backward_operator)(_backward_operations)

    backward = functools.partial(_first_derivative, backward_operator)
    torch.library.register_autograd(forward_name, backward, setup_context=_save_for_backward)
    torch.library.register_autograd(backward_name, _second_derivative, setup_context=_save_for_second)

    class Backward(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(backward_operator)
        setup_context = staticmethod(_save_for_second)
        backward = staticmethod(_second_derivative)

    class Forward(torch.autograd.Function):
        generate_vmap_rule = True
        forward = staticmethod(forward_operator)
        setup_context = staticmethod(_save_for_backward)
        backward = staticmethod(functools.partial(_first_derivative, Backward.apply))

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        lepe: Tensor | None,
        mask: Tensor | None,
        index: Tensor,
        weights: Tensor | None,
        grid: tuple[int, int],
        scale: float,
    ) -> tuple[Tensor, Tensor]:
        arguments = q, k, v, lepe, mask, index, weights, grid, scale
        if torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling():
            return Forward.apply(*arguments)
        if torch.compiler.is_compiling() or needs_grad(q, k, v, lepe, weights):
            return forward_operator(*arguments)
        # Derivatives registered with `torch.library` are looked up in Python, 6 us a call, wanted or not.
        with torch._C._AutoDispatchBelowAutograd():
            return forward_operator(*arguments)

    return run


run_routing = declare("bi_level_routing")
run_routing_triton = declare("bi_level_routing_triton")
