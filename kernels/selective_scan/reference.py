"""Selective scan in plain PyTorch: the definition, one step after the other. Every backend has to agree with it.

Letters, here and in the files beside this one: B batch, L steps, D channels, N states a channel, G groups (channels d
of a group share their B and C). Of `scan_routes`: L tokens of a map, R routes, G maps (each serves R / G routes in a
row), D channels of a map.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tensors import wide_dtype


def selective_scan_reference(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """h_t = exp(delta_t A) h_{t-1} + delta_t B_t u_t, y_t = <C_t, h_t> + D u_t, times silu(z_t).

    Any device and floating dtype; differentiable any number of times, forward mode too. 16-bit input is computed in
    float32. Arguments are taken as checked (`arguments.check_scan`).

    Args:
        u, delta, z: (B, D, L).
        A: (D, N), real or complex.
        B, C: (B, G, N, L), (B, N, L), or (D, N) where they are constant; of a complex A, 2 L in place of L, real and
            imaginary part in turn, or complex (D, N).
        D, delta_bias: (D,).
        initial_state: h_0 (B, D, N), zeros if None.

    Returns:
        (B, D, L) in the dtype of `u`, and the last state (B, D, N) in float32 (float64 for float64) or its complex
        counterpart. Of a complex A the output is twice the real part of the inner product.
    """
    dtype, wide = u.dtype, wide_dtype(u)
    inner = wide.to_complex() if A.is_complex() else wide
    batch, channels, length = u.shape
    u, delta, A = u.to(wide), delta.to(wide), A.to(inner)
    if delta_bias is not None:
        delta = delta + delta_bias.to(wide)[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    of_step_b, of_step_c = (_steps(coefficients, channels, inner) for coefficients in (B, C))
    h = u.new_zeros(batch, channels, A.shape[1], dtype=inner) if initial_state is None else initial_state.to(inner)
    outs = []
    for t in range(length):
        dt = delta[:, :, t, None]
        h = torch.exp(dt * A) * h + dt * u[:, :, t, None] * of_step_b(t)
        y = (h * of_step_c(t)).sum(dim=-1)
        outs.append(2 * y.real if y.is_complex() else y)
    out = torch.stack(outs, dim=-1) if outs else torch.zeros_like(u)
    if D is not None:
        out = out + u * D.to(wide)[:, None]
    if z is not None:
        out = out * F.silu(z.to(wide))
    return out.to(dtype), h


def _steps(coefficients: Tensor, channels: int, dtype: torch.dtype):
    """From a step to its B or C, (B, D, N), or (D, N) where it is constant."""
    if coefficients.ndim == 2:
        constant = coefficients.to(dtype)
        return lambda t: constant
    if dtype.is_complex:
        coefficients = torch.view_as_complex(coefficients.to(dtype.to_real()).unflatten(-1, (-1, 2)).contiguous())
    if coefficients.ndim == 3:
        coefficients = coefficients[:, None]
    of_group = coefficients.to(dtype)  # (B, G, N, L)
    ratio = channels // max(of_group.shape[1], 1)
    return lambda t: of_group[..., t].repeat_interleave(ratio, dim=1)


def scan_routes_reference(
    u: Tensor,
    routes: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """Each route: its tokens in its order, `selective_scan_reference`, every result back at its token's place.

    Args:
        u: (B, L, G, D).
        routes: (R, L) of integers, a permutation of the tokens a row.
        delta: (B, L, R, D).
        A: (R, D, N).
        B, C: (B, L, R, N).
        D, delta_bias: (R, D).

    Returns:
        (B, L, R, D) in the dtype of `u`.
    """
    ratio = len(routes) // u.shape[2]
    outs = []
    for r, route in enumerate(routes):
        out, _ = selective_scan_reference(
            u[:, route, r // ratio].mT,
            delta[:, route, r].mT,
            A[r],
            B[:, route, r].mT,
            C[:, route, r].mT,
            None if D is None else D[r],
            None,
            None if delta_bias is None else delta_bias[r],
            delta_softplus,
            None,
        )
        outs.append(out.mT[:, route.argsort()])
    return torch.stack(outs, dim=2)
