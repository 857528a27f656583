"""The arguments of the selective scan: refused in words where they do not fit one another. Letters: `reference.py`."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ..tensors import DTYPES


class Call(NamedTuple):
    """What a backend has to know to say whether it can serve."""

    device: torch.device
    dtype: torch.dtype  # of u
    batch: int
    length: int
    channels: int  # of all groups or routes together
    groups: int  # or routes
    states: int
    is_complex: bool  # A is
    constant: bool  # B or C is the same at every step
    needs_grad: bool
    transformed: bool  # inside torch.func's transforms
    forward_mode: bool
    initial: bool = False  # there is an initial state
    wants_state: bool = False  # the last state is returned


def fail(who: str, message: str) -> InputError:
    return InputError(f"{who}: {message}")


def _same_home(who: str, tensors: dict[str, Tensor | None], device: torch.device, complex_too: tuple = ()) -> None:
    """All tensors on one device, all of them floating point."""
    for name, tensor in tensors.items():
        if tensor is None:
            continue
        if tensor.device != device:
            raise fail(who, f"{name} is on {tensor.device}, u on {device}: move them to one device")
        if tensor.dtype not in DTYPES and not (name in complex_too and tensor.is_complex()):
            raise fail(who, f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")


def _shape(who: str, name: str, tensor: Tensor | None, wanted: tuple, why: str) -> None:
    if tensor is not None and tuple(tensor.shape) != wanted:
        raise fail(who, f"{name} must be {wanted} {why}, got {tuple(tensor.shape)}")


def check_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    initial_state: Tensor | None,
    wants_state: bool,
    needs_grad: bool,
    transforms: tuple[bool, bool],
) -> Call:
    """All checks of `selective_scan`; `transforms`: two entries of the Call. Raises InputError, a ValueError."""
    who = "selective_scan"
    tensors: dict[str, Any] = dict(
        u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=delta_bias, initial_state=initial_state
    )
    complex_too = ("A", "B", "C", "initial_state") if A.is_complex() else ()
    _same_home(who, tensors, u.device, complex_too)
    if u.ndim != 3:
        raise fail(who, f"u must be (B, D, L), batch, channels and steps, got {u.ndim} axes: {tuple(u.shape)}")
    batch, channels, length = u.shape
    if A.ndim != 2 or A.shape[0] != channels or A.shape[1] == 0:
        raise fail(who, f"A must be ({channels}, N), a row a channel of u, N at least 1, got {tuple(A.shape)}")
    states = A.shape[1]
    _shape(who, "delta", delta, (batch, channels, length), "as u is")
    _shape(who, "z", z, (batch, channels, length), "as u is")
    _shape(who, "D", D, (channels,), "an entry a channel")
    _shape(who, "delta_bias", delta_bias, (channels,), "an entry a channel")
    _shape(who, "initial_state", initial_state, (batch, channels, states), "a state of A a channel")
    steps = 2 * length if A.is_complex() else length
    groups = 1
    for name, tensor in (("B", B), ("C", C)):
        own = 1
        if tensor.ndim == 2:
            fits = tuple(tensor.shape) == (channels, states)
            if A.is_complex() and not tensor.is_complex():
                raise fail(who, f"{name} of shape (D, N) must be complex as A is, got {tensor.dtype}")
        elif tensor.ndim in (3, 4):
            if tensor.is_complex():
                raise fail(
                    who, f"{name} must be real, its last axis real and imaginary parts in turn, got {tensor.dtype}"
                )
            own = tensor.shape[1] if tensor.ndim == 4 else 1
            fits = (tensor.shape[0], tensor.shape[-2], tensor.shape[-1]) == (batch, states, steps)
        else:
            fits = False
        if not fits:
            raise fail(
                who,
                f"{name} must be {(channels, states)}, {(batch, states, steps)} or {(batch, 'groups', states, steps)} "
                f"for this u and A, got {tuple(tensor.shape)}",
            )
        if own == 0 or channels % own:
            raise fail(who, f"the {channels} channels of u must be a multiple of {name}'s {own} groups")
        if groups > 1 and own > 1 and own != groups:
            raise fail(who, f"B has {groups} groups and C {own}: give them one number, or one of them a single group")
        groups = max(groups, own)
    return Call(
        u.device, u.dtype, batch, length, channels, groups, states, A.is_complex(), 2 in (B.ndim, C.ndim),
        needs_grad, *transforms, initial_state is not None, wants_state,
    )  # fmt: skip


def check_routes(
    u: Tensor,
    routes: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    delta_bias: Tensor | None,
    needs_grad: bool,
    transforms: tuple[bool, bool],
) -> Call:
    """All checks of `scan_routes` but that each route is a permutation, which would cost a look at every entry.

    `transforms`: two entries of the Call.

    Raises InputError, a ValueError.
    """
    who = "scan_routes"
    tensors: dict[str, Any] = dict(u=u, delta=delta, A=A, B=B, C=C, D=D, delta_bias=delta_bias)
    _same_home(who, tensors, u.device)
    if u.ndim != 4:
        raise fail(who, f"u must be (B, L, G, D), batch, tokens, maps and channels, got {tuple(u.shape)}")
    batch, length, maps, channels = u.shape
    if routes.dtype != torch.int64 or routes.ndim != 2 or routes.shape[1] != length:
        raise fail(
            who,
            f"routes must be an int64 table (R, {length}), an order of u's tokens a row, "
            f"got {routes.dtype} {tuple(routes.shape)}",
        )
    if routes.device != u.device:
        raise fail(who, f"routes is on {routes.device}, u on {u.device}: move them to one device")
    count = routes.shape[0]
    if count == 0 or maps == 0 or count % maps:
        raise fail(who, f"the {count} routes must be a multiple of u's {maps} maps, which serve so many in a row each")
    if A.ndim != 3 or tuple(A.shape[:2]) != (count, channels) or A.shape[2] == 0:
        raise fail(
            who, f"A must be ({count}, {channels}, N), of routes and channels, N at least 1, got {tuple(A.shape)}"
        )
    states = A.shape[2]
    _shape(who, "delta", delta, (batch, length, count, channels), "for this u and these routes")
    for name, tensor in (("B", B), ("C", C)):
        _shape(who, name, tensor, (batch, length, count, states), "for this u, A and these routes")
    for name, tensor in (("D", D), ("delta_bias", delta_bias)):
        _shape(who, name, tensor, (count, channels), "of routes and channels")
    return Call(
        u.device, u.dtype, batch, length, count * channels, count, states, False, False, needs_grad, *transforms
    )
