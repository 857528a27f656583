"""The public operators of the selective scan, and the choice of the backend that computes them."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..dispatch import Backend, Operator
from ..tensors import forward_mode, needs_grad, wide_dtype
from . import chunked, cpu, mamba_ssm, torch_scan, triton
from .arguments import Call, check_routes, check_scan
from .operators import run_scan, run_scan_triton
from .reference import scan_routes_reference, selective_scan_reference


def _scan_by_chunks(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state) -> tuple[Tensor, Tensor]:
    dtype, wide = u.dtype, wide_dtype(u)
    u, delta = u.to(wide), _step_sizes(delta.to(wide).mT, delta_bias, delta_softplus, wide)  # delta (B, L, D) from here
    b, c = (x[:, None] if x.ndim == 3 else x for x in (B.to(wide), C.to(wide)))
    groups = max(b.shape[1], c.shape[1])
    b, c = (x.expand(-1, groups, -1, -1).permute(0, 3, 1, 2) for x in (b, c))
    sizes = groups, u.shape[1] // groups
    start = None if initial_state is None else initial_state.to(wide).unflatten(1, sizes)
    out, last = chunked.chunked_scan(
        u.mT.unflatten(2, sizes), delta.unflatten(2, sizes), A.to(wide).unflatten(0, sizes), b, c, None, start
    )
    out = out.flatten(2).mT
    if D is not None:
        out = torch.addcmul(out, u, D.to(wide)[:, None])
    if z is not None:
        out = out * F.silu(z.to(wide))
    return out.to(dtype), last.flatten(1, 2)


def _routes_by_chunks(u, routes, delta, A, B, C, D, delta_bias, delta_softplus) -> Tensor:
    dtype, wide = u.dtype, wide_dtype(u)
    delta = _step_sizes(delta.to(wide), delta_bias, delta_softplus, wide)
    u = u.to(wide)
    out, _ = chunked.chunked_scan(u, delta, A.to(wide), B.to(wide), C.to(wide), routes, None)
    if D is not None:
        sizes = u.shape[2], out.shape[2] // u.shape[2]
        out = torch.addcmul(out.unflatten(2, sizes), u[:, :, :, None], D.to(wide).unflatten(0, sizes)).flatten(2, 3)
    return out.to(dtype)


def _step_sizes(delta: Tensor, bias: Tensor | None, softplus: bool, dtype: torch.dtype) -> Tensor:
    delta = delta if bias is None else delta + bias.to(dtype)
    return F.softplus(delta) if softplus else delta


def _one_dtype(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """What operators take: the dtype that all have, or else that of their arithmetic."""
    first, *others = tensors
    if all(x is None or x.dtype == first.dtype for x in others):
        return tensors
    wide = wide_dtype(first)
    return tuple(x if x is None else x.to(wide) for x in tensors)


def _wide(dtype: torch.dtype, *tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    return tuple(x if x is None else x.to(dtype).contiguous() for x in tensors)


def scan_by(operator: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`run` of a backend of selective_scan with an operator of `operators.py`: groups are routes."""

    def run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state) -> tuple[Tensor, Tensor]:
        dtype, wide = u.dtype, wide_dtype(u)
        u, delta, B, C, z = _one_dtype(u, delta, B, C, z)
        B, C = (x[:, None] if x.ndim == 3 else x for x in (B, C))
        groups = max(B.shape[1], C.shape[1])
        B, C = (x.expand(-1, groups, -1, -1) for x in (B, C))
        sizes = groups, u.shape[1] // groups
        z, start = (None if x is None else x.unflatten(1, sizes) for x in (z, initial_state))
        A, D, delta_bias = (None if x is None else x.unflatten(0, sizes) for x in _wide(wide, A, D, delta_bias))
        out, last = operator(
            u.unflatten(1, sizes), delta.unflatten(1, sizes), A, B, C, D, z, delta_bias,
            None if start is None else start.to(wide), None, delta_softplus, True,
        )  # fmt: skip
        return out.flatten(1, 2).to(dtype), last.flatten(1, 2)

    return run


def routes_by(operator: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., Tensor]:
    """`run` of a backend of scan_routes with an operator of `operators.py`."""

    def run(u, routes, delta, A, B, C, D, delta_bias, delta_softplus) -> Tensor:
        dtype, wide = u.dtype, wide_dtype(u)
        u, delta, B, C = _one_dtype(u, delta, B, C)
        A, D, delta_bias = _wide(wide, A, D, delta_bias)
        routes = routes.contiguous()
        return operator(u, delta, A, B, C, D, None, delta_bias, None, routes, delta_softplus, False)[0].to(dtype)

    return run


torch.library.impl("bestiary::selective_scan_triton_forward", ("cuda", "cpu"), triton.forward)
torch.library.impl("bestiary::selective_scan_triton_backward", ("cuda", "cpu"), triton.backward)


def rank(call: Call) -> tuple[str, ...]:
    """The backends to try, fastest first."""
    first = ("triton", "mamba_ssm") if call.device.type == "cuda" else ("cpu",)
    return (*first, "chunked", "reference")


def rank_routes(call: Call) -> tuple[str, ...]:
    """The same of what knows routes."""
    return tuple(name for name in rank(call) if name in ROUTES.backends)


OPERATOR = Operator(
    "selective_scan",
    {
        "cpu": Backend(scan_by(run_scan), cpu.why_not, cpu.unavailable),
        "triton": Backend(scan_by(run_scan_triton), triton.why_not, triton.unavailable),
        "mamba_ssm": Backend(mamba_ssm.run, mamba_ssm.why_not, mamba_ssm.unavailable),
        "chunked": Backend(_scan_by_chunks, chunked.why_not),
        "torch_scan": Backend(torch_scan.run, torch_scan.why_not),
        "reference": Backend(selective_scan_reference, lambda call: None),
    },
    rank,
    standard=("torch_scan", "reference"),
)
ROUTES = Operator(
    "scan_routes",
    {
        "cpu": Backend(routes_by(run_scan), cpu.why_not, cpu.unavailable),
        "triton": Backend(routes_by(run_scan_triton), triton.why_not, triton.unavailable),
        "chunked": Backend(_routes_by_chunks, chunked.why_not),
        "torch_scan": Backend(torch_scan.run_routes, torch_scan.why_not),
        "reference": Backend(scan_routes_reference, lambda call: None),
    },
    rank_routes,
    standard=("torch_scan", "reference"),
)


def _transforms() -> tuple[bool, bool]:
    """Whether this is inside a transform of torch.func, and whether in forward-mode differentiation."""
    functorch = torch._C._are_functorch_transforms_active() and not torch.compiler.is_compiling()
    return functorch, forward_mode()


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
    initial_state: Tensor | None = None,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The recurrence of Mamba (arXiv:2312.00752): h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t, y_t = <C_t, h_t> + D u_t.

    Names, meanings and layouts are mamba-ssm's. All floating tensors have gradients.

    Args:
        u: (B, D, L); float16, bfloat16, float32 or float64.
        delta: (B, D, L), step sizes dt.
        A: (D, N), real or complex.
        B, C: (B, G, N, L), G groups of channels in a row; (B, N, L), one group; (D, N), the same at each step. Of a
            complex A: 2 L in place of L, real and imaginary part in turn, or complex (D, N).
        D: (D,), what of the input is added to the output.
        z: (B, D, L), gates: the output is multiplied by silu(z).
        delta_bias: (D,), added to `delta`.
        delta_softplus: whether softplus makes the step sizes, behind the bias.
        return_last_state: return h_L as well.
        initial_state: h_0, (B, D, N); None: zeros.
        backend: None takes the fastest that can serve (`bestiary.kernels.backends('selective_scan')` lists them); a
            name insists on that one.

    Returns:
        (B, D, L) in the dtype of `u`; with `return_last_state` also (B, D, N) in float32 (float64 for float64), complex
        where A is. A complex A gives twice the real part. A sequence of length 0 gives h_0 as its last state.

    The arithmetic is in float32, in float64 where `u` is; autocast changes nothing.

    Raises:
        InputError (a ValueError): arguments that do not fit one another; the named backend cannot serve (it says why).
    """
    recorded = needs_grad(u, delta, A, B, C, D, z, delta_bias, initial_state)
    call = check_scan(u, delta, A, B, C, D, z, delta_bias, initial_state, return_last_state, recorded, _transforms())
    run = OPERATOR.backends[OPERATOR.choose(call, backend)].run
    out, last = run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
    return (out, last) if return_last_state else out


def scan_routes(
    u: Tensor,
    routes: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    backend: str | None = None,
) -> Tensor:
    """Selective scans of a map along several routes at once; everything stays in the map's order, channels last.

    The coefficients hang on a token and a route, not on the place in the route, so nothing need be permuted outside: a
    backend walks the map by the table and leaves each result at its token.

    Args:
        u: (B, L, G, D), L tokens of G maps; float16, bfloat16, float32 or float64.
        routes: (R, L), int64: in which order each route meets the tokens, a permutation a row (not checked). R is a
            multiple of G: routes 0 to R / G - 1 walk the first map, and so on.
        delta: (B, L, R, D), step sizes.
        A: (R, D, N).
        B, C: (B, L, R, N).
        D, delta_bias: (R, D), as for `selective_scan`.
        delta_softplus: whether softplus makes the step sizes, behind the bias.
        backend: as for `selective_scan`; the operator's name is 'scan_routes'.

    Returns:
        (B, L, R, D), of each token what each route made of it, in the dtype of `u`.

    The arithmetic is in float32, in float64 where `u` is; autocast changes nothing.

    Raises:
        InputError (a ValueError): arguments that do not fit one another; the named backend cannot serve (it says why).
    """
    recorded = needs_grad(u, delta, A, B, C, D, delta_bias)
    call = check_routes(u, routes, delta, A, B, C, D, delta_bias, recorded, _transforms())
    run = ROUTES.backends[ROUTES.choose(call, backend)].run
    return run(u, routes, delta, A, B, C, D, delta_bias, delta_softplus)
