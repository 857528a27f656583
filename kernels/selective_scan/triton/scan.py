"""The selective scan forward in Triton: a program walks the steps of 32 channels of a route, a tile at a time."""

from math import prod
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...triton_launch import Launch
from .tiles import decay_of, load_states, load_tile, sigmoid, step_sizes, store_tile, tokens, walk
from .tiling import tiling

AXES = "b", "l", "r", "d"  # of a map's strides: batch, steps, routes, channels or states


def strides(prefix: str, tensor: Tensor | None, steps_last: bool) -> dict[str, int]:
    """Of (B, L, R, X), or (B, R, X, L) with `steps_last`, by the names that kernels have for them."""
    if tensor is None:
        return dict.fromkeys((f"{prefix}_{axis}" for axis in AXES), 0)
    b, *rest = tensor.stride()
    r, d, l = rest if steps_last else (rest[1], rest[2], rest[0])  # noqa: E741
    return dict(zip((f"{prefix}_{axis}" for axis in AXES), (b, l, r, d), strict=True))


def unit(tensor: Tensor | None, steps_last: bool) -> int:
    """Which stride is 1 for sure: 1, the channels'; 2, the steps'; 0, neither. It is a constant of the kernel."""
    if tensor is None:
        return 0
    of = strides("x", tensor, steps_last)
    return 1 if of["x_d"] == 1 else 2 if of["x_l"] == 1 else 0


def reach(tensor: Tensor) -> int:
    """How far the elements of one batch item lie from its first, here or in a contiguous tensor of this shape."""
    sizes = tensor.shape[1:]
    here = sum((size - 1) * stride for size, stride in zip(sizes, tensor.stride()[1:], strict=True) if size)
    return max(here, prod(sizes))


def named(*prefixes: str) -> list[str]:
    return [f"{prefix}_{axis}" for prefix in prefixes for axis in AXES]


INTEGERS = [*named("u", "dt", "b", "c", "z", "y"), "h_b", "h_r", "h_d", "h_n", "length", "channels", "routes_count",
            "ratio", "states_k", "first_batch"]  # fmt: skip


@triton.jit(do_not_specialize=INTEGERS)
def forward_kernel(
    u, delta, A, B, C, D, z, bias, initial, routes, out, last, states,
    u_b, u_l, u_r, u_d, dt_b, dt_l, dt_r, dt_d, b_b, b_l, b_r, b_d, c_b, c_l, c_r, c_d, z_b, z_l, z_r, z_d,
    y_b, y_l, y_r, y_d, h_b, h_r, h_d, h_n, length, channels, routes_count, ratio, states_k, first_batch,
    N: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
    U_UNIT: tl.constexpr, DT_UNIT: tl.constexpr, B_UNIT: tl.constexpr, C_UNIT: tl.constexpr, Z_UNIT: tl.constexpr,
    Y_UNIT: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_START: tl.constexpr,
    ROUTED: tl.constexpr, WIDE: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """A program: one block of channels of one route of one batch item. Neighbours share B and C."""
    program = tl.program_id(0)
    blocks = (channels + (CHANNELS - 1)) // CHANNELS
    route = (program // blocks % routes_count).to(tl.int64)
    item = (program // blocks // routes_count + first_batch).to(tl.int64)
    channel = program % blocks * CHANNELS + tl.arange(0, CHANNELS)
    within = channel < channels
    state = tl.arange(0, STATES)
    there = state < N
    both = there[:, None] & within[None, :]

    u += item * u_b + route // ratio * u_r
    delta += item * dt_b + route * dt_r
    B += item * b_b + route * b_r
    C += item * c_b + route * c_r
    z += item * z_b + route * z_r
    out += item * y_b + route * y_r
    row = route * channels
    kept = ((item * routes_count + route) * channels) * N  # of a contiguous (B, R, D, N)
    rates = load_states(A + row * N, state, channel, both, 1, N) * 1.4426950408889634  # for powers of two
    if HAS_BIAS:
        shift = tl.load(bias + row + channel, mask=within, other=0.0)
    if HAS_D:
        skip = tl.load(D + row + channel, mask=within, other=0.0)
    if HAS_START:
        h = load_states(initial + item * h_b + route * h_r, state, channel, both, h_n, h_d)
    else:
        h = tl.zeros((STATES, CHANNELS), tl.float32)
    at = state[:, None] + channel[None, :] * N
    for first in range(0, length, STEPS):
        if CHUNK > 0:
            if first % CHUNK == 0:
                chunk = first // CHUNK
                tl.store(states + chunk * states_k.to(tl.int64) + kept + at, h, mask=both)
        token, inside = tokens(routes, route, first, length, STEPS, ROUTED, WIDE)
        x = load_tile(u, token, inside, channel, within, u_l, u_d, U_UNIT)
        raw = load_tile(delta, token, inside, channel, within, dt_l, dt_d, DT_UNIT)
        if HAS_BIAS:
            raw += shift[None, :]
        dt = step_sizes(raw, inside, SOFTPLUS)
        b = load_tile(B, token, inside, state, there, b_l, b_d, B_UNIT)
        c = load_tile(C, token, inside, state, there, c_l, c_d, C_UNIT)
        decay = decay_of(dt, rates)
        hs, _, h = walk(decay, (dt * x)[:, None, :] * b[:, :, None], h)
        y = tl.sum(hs * c[:, :, None], 1)
        if HAS_D:
            y += skip[None, :] * x
        if HAS_Z:
            gate = load_tile(z, token, inside, channel, within, z_l, z_d, Z_UNIT)
            y *= gate * sigmoid(gate)
        store_tile(out, token, inside, channel, within, y_l, y_d, y, Y_UNIT)
    tl.store(last + kept + at, h, mask=both)


def maps(
    u: Tensor,
    delta: Tensor,
    B: Tensor,
    C: Tensor,
    z: Tensor | None,
    routes: Tensor | None,
    steps_last: bool,
    d_out: Tensor | None = None,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Strides and sizes, and which strides are 1: what all kernels are told of the maps."""
    tensors = {"u": u, "dt": delta, "b": B, "c": C, "z": z}
    if d_out is not None:
        tensors["dy"] = d_out
    arguments: dict[str, Any] = {}
    for prefix, tensor in tensors.items():
        arguments |= strides(prefix, tensor, steps_last)
    _, *rest = delta.shape
    count, channels, length = rest if steps_last else (rest[1], rest[2], rest[0])
    maps_count = u.shape[1] if steps_last else u.shape[2]
    arguments |= {
        "length": length, "channels": channels, "routes_count": count, "ratio": count // maps_count,
    }  # fmt: skip
    constants = {f"{prefix.upper()}_UNIT": unit(tensor, steps_last) for prefix, tensor in tensors.items()}
    wide = any(reach(tensor) > 2**31 - 1 for tensor in tensors.values() if tensor is not None)
    return arguments, constants | {"HAS_Z": z is not None, "ROUTED": routes is not None, "WIDE": wide}


def forward_launch(
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
    chunk: int,
    out: Tensor,
    last: Tensor,
    states: Tensor,
) -> Launch:
    """Writes `out`, `last` and, with a `chunk`, `states`."""
    count, channels, width = A.shape
    tiles = tiling(width, chunk, steps_last, backward=False)
    given, constants = maps(u, delta, B, C, z, routes, steps_last)
    start = (0, 0, 0, 0) if initial_state is None else initial_state.stride()
    none = last  # takes the place of what is not there, and is not touched
    arguments = {
        "u": u, "delta": delta, "A": A, "B": B, "C": C, "D": none if D is None else D, "z": u if z is None else z,
        "bias": none if delta_bias is None else delta_bias, "initial": none if initial_state is None else initial_state,
        "routes": none if routes is None else routes, "out": out, "last": last, "states": states if chunk else none,
        **given, **strides("y", out, steps_last), **dict(zip(("h_b", "h_r", "h_d", "h_n"), start, strict=True)),
        "states_k": states.stride(0),
    }  # fmt: skip
    constants |= {
        "N": width, "STEPS": tiles.steps, "STATES": tiles.states, "CHANNELS": tiles.channels, "CHUNK": chunk,
        "Y_UNIT": unit(out, steps_last), "HAS_D": D is not None, "HAS_BIAS": delta_bias is not None,
        "HAS_START": initial_state is not None, "SOFTPLUS": delta_softplus,
    }  # fmt: skip
    programs = count * tiles.blocks(channels)
    return Launch(forward_kernel, programs, 1, u.shape[0], arguments, constants, tiles.warps, 1)


def forward(
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
    chunk: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Output, last state, and the states before each chunk; shapes and layouts as `operators.py` says."""
    length = u.shape[-1] if steps_last else u.shape[1]
    state = u.shape[0], *A.shape
    out = torch.empty(delta.shape, dtype=delta.dtype, device=u.device)
    last = torch.empty(state, dtype=torch.float32, device=u.device)
    kept = -(-length // chunk) if chunk else 0
    states = torch.empty(kept, *state, dtype=torch.float32, device=u.device)
    if last.numel():
        forward_launch(
            u, delta, A, B, C, D, z, delta_bias, initial_state, routes, delta_softplus, steps_last, chunk,
            out, last, states,
        ).run()  # fmt: skip
    return out, last, states
