"""The gradients of the selective scan in Triton: chunk after chunk from the last, the states made again on the way.

A chunk is walked forward once, from the state that was kept before it, for the states before its tiles, and then back
tile by tile. What many programs add to (B and C: blocks of channels; A, D and the bias: batch items) each writes for
itself, and PyTorch sums in one order: equal bit for bit at every run.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ...triton_launch import Launch
from .scan import maps, named, strides, unit
from .tiles import (
    decay_of,
    load_states,
    load_tile,
    sigmoid,
    step_sizes,
    store_tile,
    tokens,
    walk,
    walk_back,
)
from .tiling import tiling

WORKSPACE = 1 << 28  # bytes of partial sums at a time: larger batches are taken in slices

INTEGERS = [*named("u", "dt", "b", "c", "z", "dy", "du", "y", "p"), "p_k", "length", "channels", "routes_count",
            "ratio", "states_k", "first_batch"]  # fmt: skip


@triton.jit(do_not_specialize=INTEGERS)
def gradient_kernel(
    d_out, d_last, states, u, delta, A, B, C, D, z, bias, routes,
    d_u, d_delta, d_A, d_B, d_C, d_D, d_z, d_bias, d_initial, starts,
    u_b, u_l, u_r, u_d, dt_b, dt_l, dt_r, dt_d, b_b, b_l, b_r, b_d, c_b, c_l, c_r, c_d, z_b, z_l, z_r, z_d,
    dy_b, dy_l, dy_r, dy_d, du_b, du_l, du_r, du_d, y_b, y_l, y_r, y_d, p_k, p_b, p_l, p_r, p_d,
    length, channels, routes_count, ratio, states_k, first_batch,
    N: tl.constexpr, STEPS: tl.constexpr, STATES: tl.constexpr, CHANNELS: tl.constexpr, CHUNK: tl.constexpr,
    U_UNIT: tl.constexpr, DT_UNIT: tl.constexpr, B_UNIT: tl.constexpr, C_UNIT: tl.constexpr, Z_UNIT: tl.constexpr,
    DY_UNIT: tl.constexpr, Y_UNIT: tl.constexpr, P_UNIT: tl.constexpr, HAS_D: tl.constexpr, HAS_Z: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_LAST: tl.constexpr, ROUTED: tl.constexpr, WIDE: tl.constexpr, SOFTPLUS: tl.constexpr,
):  # fmt: skip
    """A program: one block of channels of one route of one batch item, as forward.

    Strides: y of the gradients of delta and z, du of that of u (a route each), p of the partial sums of d_B and d_C,
    p_k between blocks of channels.
    """
    TILES: tl.constexpr = CHUNK // STEPS
    LOG2E: tl.constexpr = 1.4426950408889634
    program = tl.program_id(0)
    blocks = (channels + (CHANNELS - 1)) // CHANNELS
    block = program % blocks
    route = (program // blocks % routes_count).to(tl.int64)
    item = (program // blocks // routes_count + first_batch).to(tl.int64)
    channel = block * CHANNELS + tl.arange(0, CHANNELS)
    within = channel < channels
    state = tl.arange(0, STATES)
    there = state < N
    both = there[:, None] & within[None, :]

    u += item * u_b + route // ratio * u_r
    delta += item * dt_b + route * dt_r
    B += item * b_b + route * b_r
    C += item * c_b + route * c_r
    z += item * z_b + route * z_r
    d_out += item * dy_b + route * dy_r
    d_u += item * du_b + route * du_r
    d_delta += item * y_b + route * y_r
    d_z += item * y_b + route * y_r
    d_B += block * p_k.to(tl.int64) + item * p_b + route * p_r
    d_C += block * p_k.to(tl.int64) + item * p_b + route * p_r
    row = route * channels
    mine = (item * routes_count + route) * channels  # of a contiguous (B, R, D)
    at = state[:, None] + channel[None, :] * N
    rates = load_states(A + row * N, state, channel, both, 1, N)
    if HAS_BIAS:
        shift = tl.load(bias + row + channel, mask=within, other=0.0)
    if HAS_D:
        skip = tl.load(D + row + channel, mask=within, other=0.0)
    if HAS_LAST:
        end = tl.load(d_last + mine * N + at, mask=both, other=0.0)
    else:
        end = tl.zeros((STATES, CHANNELS), tl.float32)
    starts += ((item * routes_count + route) * blocks + block) * (TILES * STATES * CHANNELS)
    spot = state[:, None] * CHANNELS + tl.arange(0, CHANNELS)[None, :]
    d_rates = tl.zeros((STATES, CHANNELS), tl.float32)
    d_skip = tl.zeros((CHANNELS,), tl.float32)
    d_shift = tl.zeros((CHANNELS,), tl.float32)

    chunks = (length + (CHUNK - 1)) // CHUNK
    for back in range(0, chunks):
        chunk = chunks - 1 - back
        begin = chunk * CHUNK
        tiles = tl.minimum(TILES, (length - begin + (STEPS - 1)) // STEPS)
        h = tl.load(states + chunk * states_k.to(tl.int64) + mine * N + at, mask=both, other=0.0)
        if TILES > 1:
            tl.store(starts + spot, h)
            for tile in range(1, tiles):
                first = begin + (tile - 1) * STEPS
                token, inside = tokens(routes, route, first, length, STEPS, ROUTED, WIDE)
                x = load_tile(u, token, inside, channel, within, u_l, u_d, U_UNIT)
                raw = load_tile(delta, token, inside, channel, within, dt_l, dt_d, DT_UNIT)
                if HAS_BIAS:
                    raw += shift[None, :]
                dt = step_sizes(raw, inside, SOFTPLUS)
                b = load_tile(B, token, inside, state, there, b_l, b_d, B_UNIT)
                decay = decay_of(dt, rates * LOG2E)
                _, _, h = walk(decay, (dt * x)[:, None, :] * b[:, :, None], h)
                tl.store(starts + tile * (STATES * CHANNELS) + spot, h)
            tl.debug_barrier()
        for tile_back in range(0, tiles):
            tile = tiles - 1 - tile_back
            if TILES > 1:
                h = tl.load(starts + tile * (STATES * CHANNELS) + spot)
            token, inside = tokens(routes, route, begin + tile * STEPS, length, STEPS, ROUTED, WIDE)
            x = load_tile(u, token, inside, channel, within, u_l, u_d, U_UNIT)
            raw = load_tile(delta, token, inside, channel, within, dt_l, dt_d, DT_UNIT)
            if HAS_BIAS:
                raw += shift[None, :]
            dt = step_sizes(raw, inside, SOFTPLUS)
            b = load_tile(B, token, inside, state, there, b_l, b_d, B_UNIT)
            c = load_tile(C, token, inside, state, there, c_l, c_d, C_UNIT)
            dy = load_tile(d_out, token, inside, channel, within, dy_l, dy_d, DY_UNIT)
            decay = decay_of(dt, rates * LOG2E)
            hs, kept, _ = walk(decay, (dt * x)[:, None, :] * b[:, :, None], h)
            if HAS_Z:
                gate = load_tile(z, token, inside, channel, within, z_l, z_d, Z_UNIT)
                open = sigmoid(gate)
                y = tl.sum(hs * c[:, :, None], 1)
                if HAS_D:
                    y += skip[None, :] * x
                d_gate = dy * y * open * (1.0 + gate * (1.0 - open))
                store_tile(d_z, token, inside, channel, within, y_l, y_d, d_gate, Y_UNIT)
                dy *= gate * open
            store_tile(d_C, token, inside, state, there, p_l, p_d, tl.sum(hs * dy[:, None, :], 2), P_UNIT)
            g, end = walk_back(decay, dy[:, None, :] * c[:, :, None], end)
            store_tile(d_B, token, inside, state, there, p_l, p_d, tl.sum(g * (dt * x)[:, None, :], 2), P_UNIT)
            through = tl.sum(g * b[:, :, None], 1)  # the gradient of dt * u
            kept *= g  # the gradient of dt * A
            d_rates += tl.sum(kept * dt[:, None, :], 0)
            d_dt = tl.sum(kept * rates[None], 1) + through * x
            d_x = through * dt
            if HAS_D:
                d_x += dy * skip[None, :]
                d_skip += tl.sum(dy * x, 0)
            if SOFTPLUS:
                d_dt *= sigmoid(raw)
            if HAS_BIAS:
                d_shift += tl.sum(tl.where(inside[:, None], d_dt, 0.0), 0)
            store_tile(d_delta, token, inside, channel, within, y_l, y_d, d_dt, Y_UNIT)
            store_tile(d_u, token, inside, channel, within, du_l, du_d, d_x, Y_UNIT)
        if TILES > 1:
            tl.debug_barrier()
    tl.store(d_initial + mine * N + at, end, mask=both)
    tl.store(d_A + mine * N + at, d_rates, mask=both)
    if HAS_D:
        tl.store(d_D + mine + channel, d_skip, mask=within)
    if HAS_BIAS:
        tl.store(d_bias + mine + channel, d_shift, mask=within)


def gradient_launch(
    d_out: Tensor,
    d_last: Tensor | None,
    states: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    routes: Tensor | None,
    delta_softplus: bool,
    steps_last: bool,
    chunk: int,
    gradients: dict[str, Tensor],
) -> Launch:
    """Writes `gradients`, by the kernel's names; `d_last` and `states` contiguous."""
    count, channels, width = A.shape
    tiles = tiling(width, chunk, steps_last, backward=True)
    given, constants = maps(u, delta, B, C, z, routes, steps_last, d_out)
    none = states
    partial = gradients["d_B"]  # (blocks, ...)
    arguments: dict[str, Any] = {
        "d_out": d_out, "d_last": none if d_last is None else d_last, "states": states, "u": u, "delta": delta, "A": A,
        "B": B, "C": C, "D": none if D is None else D, "z": u if z is None else z,
        "bias": none if delta_bias is None else delta_bias, "routes": none if routes is None else routes,
        **gradients, **given, **strides("du", gradients["d_u"], steps_last),
        **strides("y", gradients["d_delta"], steps_last), **strides("p", partial[0], steps_last),
        "p_k": partial.stride(0), "states_k": states.stride(0),
    }  # fmt: skip
    constants |= {
        "N": width, "STEPS": tiles.steps, "STATES": tiles.states, "CHANNELS": tiles.channels, "CHUNK": chunk,
        "Y_UNIT": unit(gradients["d_delta"], steps_last),
        "P_UNIT": unit(partial[0], steps_last), "HAS_D": D is not None, "HAS_BIAS": delta_bias is not None,
        "HAS_LAST": d_last is not None, "SOFTPLUS": delta_softplus,
    }  # fmt: skip
    programs = count * tiles.blocks(channels)
    return Launch(gradient_kernel, programs, 1, u.shape[0], arguments, constants, tiles.warps, 1)


def gradient_buffers(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, z: Tensor | None, steps_last: bool, chunk: int
) -> dict[str, Tensor]:
    """What the kernel writes, by its names, uninitialised: gradients, their shares, and the states before tiles."""
    count, channels, width = A.shape
    batch, tiles = u.shape[0], tiling(width, chunk, steps_last, backward=True)
    blocks = tiles.blocks(channels)
    alone = u.shape[1 if steps_last else 2] == count  # one route a map

    def empty(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.empty(shape, dtype=dtype, device=u.device)

    return {
        "d_u": empty(*delta.shape, dtype=u.dtype if alone else torch.float32),
        "d_delta": empty(*delta.shape, dtype=delta.dtype),
        "d_A": empty(batch, *A.shape),
        "d_B": empty(blocks, *B.shape),
        "d_C": empty(blocks, *B.shape),
        "d_D": empty(batch, count, channels),
        "d_z": empty(*delta.shape if z is not None else (0,), dtype=delta.dtype),
        "d_bias": empty(batch, count, channels),
        "d_initial": empty(batch, *A.shape),
        "starts": empty(batch, count * blocks * (chunk // tiles.steps) * tiles.states * tiles.channels),
    }


def backward(
    d_out: Tensor,
    d_last: Tensor | None,
    states: Tensor,
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
) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state; shapes as `operators.py` says."""
    batch, maps_axis = u.shape[0], 1 if steps_last else 2
    ratio = A.shape[0] // max(1, u.shape[maps_axis])
    d_last = None if d_last is None else d_last.contiguous()

    def zeros(like: Tensor | None) -> Tensor:
        return torch.zeros(0 if like is None else like.shape, dtype=torch.float32, device=u.device)

    def slice_of(first: int, last: int) -> list[Tensor]:
        some = slice(first, last)
        x, dt, b, c = u[some], delta[some], B[some], C[some]
        gates = None if z is None else z[some]
        found = gradient_buffers(x, dt, A, b, gates, steps_last, chunk)
        gradient_launch(
            d_out[some], None if d_last is None else d_last[some], states[:, some], x, dt, A, b, c, D, gates,
            delta_bias, routes, delta_softplus, steps_last, chunk, found,
        ).run()  # fmt: skip
        if ratio > 1:
            found["d_u"] = found["d_u"].unflatten(maps_axis, (-1, ratio)).sum(maps_axis + 1).to(u.dtype)
        for name, like in (("d_B", B), ("d_C", C)):
            found[name] = found[name].sum(0).to(like.dtype)
        return [found[name] for name in ("d_u", "d_delta", "d_B", "d_C", "d_z", "d_initial", "d_A", "d_D", "d_bias")]

    at_a_time = max(1, WORKSPACE // max(1, bytes_of_shares(u, delta, A, B, steps_last, chunk)))
    parts = (
        [slice_of(first, min(batch, first + at_a_time)) for first in range(0, batch, at_a_time)] if A.numel() else []
    )
    if not parts:
        wanted = zeros(u), zeros(delta), zeros(A), zeros(B), zeros(C), zeros(D), zeros(z), zeros(delta_bias)
        types = u.dtype, u.dtype, A.dtype, u.dtype, u.dtype, A.dtype, u.dtype, A.dtype
        return *(x.to(dtype) for x, dtype in zip(wanted, types, strict=True)), A.new_zeros(batch, *A.shape)
    joined = [torch.cat(some) if len(parts) > 1 else some[0] for some in zip(*parts, strict=True)]
    d_u, d_delta, d_B, d_C, d_z, d_initial, *shares = joined
    d_A, d_D, d_bias = (share.sum(0) for share in shares)
    d_D, d_bias = (zeros(None) if x is None else d_x for x, d_x in ((D, d_D), (delta_bias, d_bias)))
    return d_u, d_delta, d_A, d_B, d_C, d_D, d_z, d_bias, d_initial


def bytes_of_shares(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, steps_last: bool, chunk: int) -> int:
    """What one batch item takes of memory that is not returned."""
    with torch.device("meta"):
        one = [torch.empty(1, *x.shape[1:], dtype=x.dtype) for x in (u, delta)]
        found = gradient_buffers(*one, A, torch.empty(1, *B.shape[1:]), None, steps_last, chunk)
    bulky = ["d_B", "d_C", "starts"] + (["d_u"] if u.shape[1 if steps_last else 2] != A.shape[0] else [])
    return 4 * sum(found[name].numel() for name in bulky)
