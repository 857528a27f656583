"""The public operator of bi-level routed attention, and the choice of the backend that computes it."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from ..dispatch import Backend, Operator
from ..tensors import forward_mode, needs_grad, wide_dtype
from . import cpu, gather, operators, triton
from .arguments import Call, as_routing, check
from .reference import bi_level_routing_attention_reference
from .regions import Grid, Routing, empty_regions, region_means, route

# A backend's `run` takes q, k, v, lepe, mask, the routing, the grid and the scale.


def _by_operator(operator: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """`run` of a backend with an operator of `operators.py`."""

    def run(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        lepe: Tensor | None,
        mask: Tensor | None,
        routing: Routing,
        grid: Grid,
        scale: float,
    ) -> Tensor:
        weights = None if routing.weights is None else routing.weights.to(wide_dtype(q))
        q, k, v, lepe = (x if x is None or x.stride(-1) == 1 else x.contiguous() for x in (q, k, v, lepe))
        return operator(q, k, v, lepe, mask, routing.index, weights, grid, scale)[0]

    return run


torch.library.impl("bestiary::bi_level_routing_triton_forward", ("cuda", "cpu"), triton.forward)
torch.library.impl("bestiary::bi_level_routing_triton_backward", ("cuda", "cpu"), triton.backward)

BACKENDS = {
    "cpu": Backend(_by_operator(operators.run_routing), cpu.why_not, cpu.unavailable),
    "triton": Backend(_by_operator(operators.run_routing_triton), triton.why_not, triton.unavailable),
    "gather": Backend(gather.run, gather.why_not),
    "reference": Backend(bi_level_routing_attention_reference, lambda call: None),
}


def rank(call: Call) -> tuple[str, ...]:
    """The backends to try, fastest first."""
    if call.device.type == "meta":
        return ("reference",)  # shapes alone
    return ("triton" if call.device.type == "cuda" else "cpu", "gather", "reference")


OPERATOR = Operator("bi_level_routing_attention", BACKENDS, rank, standard=("gather", "reference"))


def bi_level_routing_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    n_win: int | Sequence[int],
    topk: int,
    scale: float | None,
    lepe: Tensor | None = None,
    mask: Tensor | None = None,
    routing: Routing | Tensor | Sequence[Tensor] | None = None,
    backend: str | None = None,
) -> Tensor:
    """Softmax attention of every token over the tokens of a few regions, chosen for its region (arXiv:2303.08810).

    The maps are cut into a grid of regions, as many on a large map as on a small one. A region's mean query chooses the
    `topk` regions whose mean keys fit it best; all heads share the choice.

    Args:
        q: (B, H, W, N, D); float16, bfloat16, float32 or float64. N heads, views of a packed projection too.
        k: like `q`, on the same map or on a smaller one (keys and values pooled within each region).
        v: like `k`, with any number E of channels.
        n_win: regions a side, or rows and columns of them; they divide the sides of both maps.
        topk: regions that each region attends to, at most as many as there are.
        scale: factor on the scores, those of the routing included. None: (N * D) ** -0.5, of all heads' channels, as
            the released networks have it.
        lepe: (B, H, W, N, E), added to the output.
        mask: (B, H', W') bool on the map of the keys, True for tokens that count. Others are left out of the regions'
            means, of queries and keys alike, and of the softmax; regions without any are chosen last. A token whose
            regions hold none gets 0, and `lepe`.
        routing: numbers of the chosen regions, (B, n_win^2, topk) int64, in place of the choice by means, or a pair of
            them and weights of their shape, which multiply a region's keys and values ('soft' routing); see `route`.
        backend: None takes the fastest that can serve (`bestiary.kernels.backends('bi_level_routing_attention')` lists
            them); a name insists on that one.

    Returns:
        (B, H, W, N, E) in the dtype of `q`. Without `routing` no gradient goes through the choice.

    Under autocast everything but float64 is cast to autocast's dtype first, as for scaled_dot_product_attention; the
    routing is float32.

    Raises:
        InputError (a ValueError): arguments that do not fit one another; the named backend cannot serve (it says why).
            Numbers of regions that are out of range are seen on CPUs, outside of compiled graphs.
    """
    device_type = q.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type) and q.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
        q, k, v = q.to(dtype), k.to(dtype), v.to(dtype)
        lepe = None if lepe is None else lepe.to(dtype)
    given = None if routing is None else as_routing(routing)
    learnt = q, k, v, lepe, None if given is None else given.weights
    call = check(q, k, v, n_win, topk, scale, lepe, mask, given, needs_grad(*learnt), forward_mode())
    name = OPERATOR.choose(call, backend)
    if scale is None:
        scale = (call.heads * call.channels) ** -0.5
    if given is None:
        given = _hard_routing(q.detach(), k.detach(), call.grid, topk, scale, mask)
    return BACKENDS[name].run(q, k, v, lepe, mask, given, call.grid, float(scale))


def _hard_routing(q: Tensor, k: Tensor, grid: Grid, topk: int, scale: float, mask: Tensor | None) -> Routing:
    means = region_means(q.flatten(3), grid, mask), region_means(k.flatten(3), grid, mask)
    return route(*means, topk, scale, None if mask is None else empty_regions(mask, grid))
