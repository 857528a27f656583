"""Selective scan by PyTorch's own scan operator: in an ONNX graph it is one node, `Scan`, of standard operators.

For graphs that are exported, where it is chosen for ONNX. It serves no other calls: PyTorch traces the step anew at
each of them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._higher_order_ops.scan import scan

from ..tensors import wide_dtype
from .arguments import Call


def why_not(call: Call) -> str | None:
    """Why this backend cannot serve `call`, None if it can."""
    if not torch.compiler.is_exporting():
        return "it is for torch.export"
    if call.is_complex:
        return "it takes a real A, this one is complex"
    if call.constant:
        return "it takes a B and a C for each step, (B, N, L) or (B, G, N, L), not constant ones"
    return "it takes at least one step of one picture" if call.length == 0 or call.batch == 0 else None


def _walk(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, h: Tensor | None) -> tuple[Tensor, Tensor]:
    """The recurrence alone.

    Args:
        u, delta: (L, B, R, D).
        A: (R, D, N).
        B, C: (L, B, R, N).
        h: (B, R, D, N), zeros if None.

    Returns:
        (L, B, R, D) and the last state.
    """
    if h is None:
        h = u.new_zeros(u.shape[1], *A.shape)

    def step(h: Tensor, coefficients: tuple[Tensor, ...]) -> tuple[Tensor, Tensor]:
        dt, dtu, b, c = coefficients
        h = torch.exp(dt[..., None] * A) * h + dtu[..., None] * b[:, :, None]
        return h, (h * c[:, :, None]).sum(dim=-1)

    last, out = scan(step, h, (delta, delta * u, B, C), dim=0)
    return out, last


def _step_sizes(delta: Tensor, bias: Tensor | None, softplus: bool) -> Tensor:
    delta = delta if bias is None else delta + bias.to(delta.dtype)
    return F.softplus(delta) if softplus else delta


def run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state) -> tuple[Tensor, Tensor]:
    """As `selective_scan_reference`, for calls that `why_not` lets through."""
    dtype, wide = u.dtype, wide_dtype(u)
    u, delta, A = u.to(wide), delta.to(wide), A.to(wide)
    B, C = (x[:, None] if x.ndim == 3 else x for x in (B.to(wide), C.to(wide)))
    groups = max(B.shape[1], C.shape[1])
    B, C = (x.expand(-1, groups, -1, -1).permute(3, 0, 1, 2) for x in (B, C))
    sizes = groups, u.shape[1] // groups
    dt = _step_sizes(delta.permute(2, 0, 1), delta_bias, delta_softplus)
    start = None if initial_state is None else initial_state.to(wide).unflatten(1, sizes)
    out, last = _walk(
        u.permute(2, 0, 1).unflatten(2, sizes), dt.unflatten(2, sizes), A.unflatten(0, sizes), B, C, start
    )
    out = out.flatten(2).permute(1, 2, 0)
    if D is not None:
        out = out + u * D.to(wide)[:, None]
    if z is not None:
        out = out * F.silu(z.to(wide))
    return out.to(dtype), last.flatten(1, 2)


def run_routes(u, routes, delta, A, B, C, D, delta_bias, delta_softplus) -> Tensor:
    """As `scan_routes_reference`, for calls that `why_not` lets through."""
    dtype, wide = u.dtype, wide_dtype(u)
    count = len(routes)
    u = u.to(wide).repeat_interleave(count // u.shape[2], dim=2)  # a map a route
    dt = _step_sizes(delta.to(wide), delta_bias, delta_softplus)
    # Rows of (L * R, X) tables, in the order of steps; and for every row of theirs, the step that made it.
    rows = (routes.mT * count + torch.arange(count, device=routes.device)).flatten()
    back = rows.argsort()

    def in_order(x: Tensor) -> Tensor:  # (B, L, R, X) -> (L, B, R, X), by steps
        return x.flatten(1, 2).index_select(1, rows).unflatten(1, (-1, count)).transpose(0, 1)

    out, _ = _walk(in_order(u), in_order(dt), A.to(wide), in_order(B.to(wide)), in_order(C.to(wide)), None)
    out = out.transpose(0, 1).flatten(1, 2).index_select(1, back).unflatten(1, (-1, count))
    if D is not None:
        out = out + u * D.to(wide)
    return out.to(dtype)
