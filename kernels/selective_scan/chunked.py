"""Selective scan in plain PyTorch by chunks: all chunks of a block of steps are walked side by side.

A first walk gives what each chunk makes of a state of zero; with the chunk's decay, exp(A * sum of delta), the states
between chunks follow one after the other; a second walk starts each chunk from its right state. Every factor is the
exponential of what one chunk has summed: nothing is divided by a running product, so nothing overflows that does not in
the definition. The backward pass makes the states again, a block of steps at a time, and walks the same way back.

Inside, a step's values are (R, D, S), its states (R, D, N, S): S is chunks times batch, long and contiguous, so that
PyTorch's loops run over it. A step is a handful of calls on what fits in a processor's cache.
"""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from .arguments import Call

STATES_AT_ONCE = {"cpu": 1 << 14, "cuda": 1 << 22}  # of one step: on a CPU too few for threads to wait for each other
STATES_OF_A_BLOCK = {"cpu": 1 << 22, "cuda": 1 << 26}  # of all its steps, which the backward pass holds twice
FEWEST_STEPS = 16  # of a chunk


def why_not(call: Call) -> str | None:
    """Why this backend cannot serve `call`, None if it can."""
    if call.is_complex:
        return "it takes a real A, this one is complex"
    if call.constant:
        return "it takes a B and a C for each step, (B, N, L) or (B, G, N, L), not constant ones"
    if call.transformed or call.forward_mode:
        return "it takes no part in torch.func's transforms and in forward-mode derivatives"
    return None


class _Plan(NamedTuple):
    """How L steps are cut: blocks one after the other, of `chunks` side by side, of `steps` each."""

    steps: int
    chunks: int
    blocks: int

    @property
    def block(self) -> int:
        return self.steps * self.chunks


def _plan(device: torch.device, length: int, width: int) -> _Plan:
    """`width`: states of one step of the recurrence."""
    width = max(width, 1)
    kind = "cpu" if device.type == "cpu" else "cuda"
    block = min(length, max(STATES_OF_A_BLOCK[kind] // width, 2 * FEWEST_STEPS))
    at_once = STATES_AT_ONCE[kind]
    chunks = max(1, min(at_once // width, block // FEWEST_STEPS))
    steps = max(1, -(-block // chunks))
    return _Plan(steps, chunks, -(-length // (steps * chunks)))


class _Order:
    """Which row of a (B * L * R, X) table each place of the blocks has, and back."""

    def __init__(self, plan: _Plan, batch: int, length: int, routes: Tensor | None, count: int, device: torch.device):
        self.plan, self.batch, self.count, self.length = plan, batch, count, length
        if routes is None:
            routes = torch.arange(length, device=device).expand(count, length)
        rows = routes * count + torch.arange(count, device=device)[:, None]
        self.padding = plan.blocks * plan.block - length
        rows = F.pad(rows, (0, self.padding), value=-1)
        rows = rows.view(count, plan.blocks, plan.chunks, plan.steps).permute(1, 3, 0, 2)[..., None, :]
        firsts = torch.arange(batch, device=device)[:, None] * (length * count)
        self.places = torch.where(rows < 0, rows, rows + firsts).flatten(1)  # of each block: T, R, B, chunks

    def take(self, table: Tensor, block: int) -> Tensor:
        """A block's rows of a table (B * L * R, X), zeros behind the last step: (T, R, X, S)."""
        places = self.places[block]
        last = self.padding and block == self.plan.blocks - 1
        rows = table.index_select(0, places.clamp_min(0) if last else places)
        if last:
            rows.masked_fill_((places < 0)[:, None], 0)
        side_by_side = self.batch * self.plan.chunks
        return rows.view(self.plan.steps, self.count, side_by_side, table.shape[1]).transpose(2, 3).contiguous()

    def put(self, blocks: list[Tensor]) -> Tensor:
        """All blocks, each (T, R, X, S), brought back: (B, L, R, X)."""
        rows = torch.cat([block.transpose(2, 3).flatten(0, 2) for block in blocks])
        places, total = self.places.flatten(), self.batch * self.length * self.count
        back = places.new_empty(total + 1)  # the last entry, -1, is where the padding goes
        back[places] = torch.arange(len(places), device=places.device)
        return rows.index_select(0, back[:-1]).view(self.batch, self.length, self.count, rows.shape[1])


def _table(*tensors: Tensor) -> Tensor:
    """Tensors (B, L, R, X_i) side by side: (B * L * R, X)."""
    return torch.cat(tensors, dim=-1).flatten(0, 2)


def _per_route(u: Tensor, count: int) -> Tensor:
    """(B, L, G, D) -> (B, L, R, D)."""
    ratio = count // u.shape[2]
    return u[:, :, :, None].expand(-1, -1, -1, ratio, -1).flatten(2, 3) if ratio > 1 else u


class _Block:
    """The coefficients of one block of steps, and the two walks forward."""

    def __init__(self, plan: _Plan, A: Tensor, u: Tensor, dt: Tensor, B: Tensor, C: Tensor):
        self.plan, self.A, self.u, self.dt = plan, A[..., None], u, dt
        self.dts = dt[:, :, :, None].unbind()  # each step's, as its states are: (R, D, N, S) or 1 for D or N
        self.dtus = (dt * u)[:, :, :, None].unbind()
        self.Bs, self.Cs = B[:, :, None].unbind(), C[:, :, None].unbind()

    def decay(self, t: int, out: Tensor) -> Tensor:
        return torch.mul(self.dts[t], self.A, out=out).exp_()

    def walk(self, h: Tensor, buffer: Tensor) -> Tensor:
        """From the states before each chunk to those behind it, in place."""
        for t in range(self.plan.steps):
            h.mul_(self.decay(t, buffer)).addcmul_(self.dtus[t], self.Bs[t])
        return h

    def split(self, x: Tensor) -> Tensor:
        """(..., S) -> (..., B, chunks)."""
        return x.unflatten(-1, (x.shape[-1] // self.plan.chunks, self.plan.chunks))

    def starts(self, state: Tensor) -> Tensor:
        """The states before the first step of each chunk, (R, D, N, S); `state` (R, D, N, B) is the block's."""
        chunks = self.plan.chunks
        if chunks == 1:
            return state.clone()
        h = state.new_zeros(*state.shape[:-1], state.shape[-1] * chunks)
        return self.carry(self.walk(h, torch.empty_like(h)), state, range(chunks))

    def carry(self, made: Tensor, state: Tensor, order: range) -> Tensor:
        """What reaches each chunk, in `order`, if each makes `made` of zero and `state` reaches the first of them."""
        made, decay = self.split(made), self.split(torch.exp(self.dt.sum(dim=0)[:, :, None] * self.A))
        reached = torch.empty_like(made)
        for k in order:
            reached[..., k] = state
            state = torch.addcmul(made[..., k], decay[..., k], state)
        return reached.flatten(-2)


def _initial(A: Tensor, batch: int, initial_state: Tensor | None) -> Tensor:
    """(R, D, N, B)."""
    if initial_state is None:
        return A.new_zeros(*A.shape, batch)
    return initial_state.permute(1, 2, 3, 0).contiguous()


@torch.library.custom_op("bestiary::selective_scan_chunked", mutates_args=())
def chunked_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, routes: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The recurrence alone, all tensors of one dtype.

    Args:
        u: (B, L, G, D).
        delta: (B, L, R, D), the step sizes themselves.
        A: (R, D, N).
        B, C: (B, L, R, N).
        routes: (R, L), permutations; None: as the steps stand.
        initial_state: (B, R, D, N), zeros if None.

    Returns:
        (B, L, R, D), and the last state (B, R, D, N).
    """
    batch, length, count, channels = delta.shape
    plan = _plan(u.device, length, batch * A.numel())
    order = _Order(plan, batch, length, routes, count, u.device)
    table = _table(_per_route(u, count), delta, B, C)
    sizes = channels, channels, A.shape[2], A.shape[2]
    state, outs = _initial(A, batch, initial_state), []
    for at in range(plan.blocks):
        block = _Block(plan, A, *order.take(table, at).split(sizes, dim=2))
        h = block.starts(state)
        buffer, y = torch.empty_like(h), torch.empty_like(block.dt)
        for t in range(plan.steps):
            h.mul_(block.decay(t, buffer)).addcmul_(block.dtus[t], block.Bs[t])
            torch.sum(torch.mul(h, block.Cs[t], out=buffer), dim=2, out=y[t])
        outs.append(y)
        state = block.split(h)[..., -1]
    out = order.put(outs) if outs else torch.zeros_like(delta, memory_format=torch.contiguous_format)
    return out, state.permute(3, 0, 1, 2).clone(memory_format=torch.contiguous_format)


@chunked_scan.register_fake
def _(u, delta, A, B, C, routes, initial_state):
    return delta.new_empty(delta.shape), delta.new_empty(delta.shape[0], *A.shape)


@torch.library.custom_op("bestiary::selective_scan_chunked_backward", mutates_args=())
def chunked_scan_backward(
    d_out: Tensor,
    d_last: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    routes: Tensor | None,
    initial_state: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of u, delta, A, B, C and the initial state."""
    contiguous = dict(memory_format=torch.contiguous_format)  # a copy: what an operator returns shares no memory
    batch, length, count, channels = delta.shape
    states = A.shape[2]
    plan = _plan(u.device, length, batch * A.numel())
    order = _Order(plan, batch, length, routes, count, u.device)
    table = _table(_per_route(u, count), delta, B, C, d_out)
    sizes = channels, channels, states, states, channels

    starts, state = [], _initial(A, batch, initial_state)
    for at in range(plan.blocks - 1):
        block = _Block(plan, A, *order.take(table, at).split(sizes, dim=2)[:4])
        starts.append(block.starts(state))
        state = block.split(block.walk(starts[-1].clone(), torch.empty_like(starts[-1])))[..., -1]

    adjoint = _initial(A, batch, d_last)  # of the state behind the block
    d_A, gradients = torch.zeros_like(A), []
    h = decay = None
    for at in reversed(range(plan.blocks)):
        *coefficients, d_y = order.take(table, at).split(sizes, dim=2)
        block = _Block(plan, A, *coefficients)
        start = starts[at] if at < len(starts) else block.starts(state)
        if h is None or decay is None:
            h, decay = start.new_empty(plan.steps + 1, *start.shape), start.new_empty(plan.steps, *start.shape)
        h[0] = start
        hs, decays, seeds = h.unbind(), decay.unbind(), d_y[:, :, :, None].unbind()
        for t in range(plan.steps):
            torch.mul(hs[t], block.decay(t, decays[t]), out=hs[t + 1]).addcmul_(block.dtus[t], block.Bs[t])
        g = torch.zeros_like(start)
        if plan.chunks > 1:
            for t in reversed(range(plan.steps)):
                g.addcmul_(seeds[t], block.Cs[t]).mul_(decays[t])
            g = block.carry(g, adjoint, range(plan.chunks)[::-1])
        else:
            g.copy_(adjoint)
        grads = d_y.new_empty(plan.steps, count, sum(sizes[:4]), start.shape[-1])
        d_dtu, d_dt, d_b, d_c = grads.split(sizes[:4], dim=2)
        buffer, d_a = torch.empty_like(g), torch.zeros_like(g)
        for t in reversed(range(plan.steps)):
            g.addcmul_(seeds[t], block.Cs[t])
            torch.sum(torch.mul(g, block.Bs[t], out=buffer), dim=2, out=d_dtu[t])
            torch.sum(torch.mul(g, block.dtus[t], out=buffer), dim=1, out=d_b[t])
            torch.sum(torch.mul(hs[t + 1], seeds[t], out=buffer), dim=1, out=d_c[t])
            g.mul_(decays[t])
            torch.mul(g, hs[t], out=buffer)
            d_a.addcmul_(buffer, block.dts[t])
            torch.sum(buffer.mul_(block.A), dim=2, out=d_dt[t])
        d_A += d_a.sum(dim=-1)
        adjoint = block.split(g)[..., 0]
        d_dt.addcmul_(d_dtu, block.u)
        d_dtu.mul_(block.dt)  # now the gradient of u
        gradients.insert(0, grads)
    if gradients:
        d_u, d_delta, d_B, d_C = (part.clone(**contiguous) for part in order.put(gradients).split(sizes[:4], dim=3))
    else:
        d_u, d_delta, d_B, d_C = (torch.zeros_like(x) for x in (delta, delta, B, C))
    ratio = count // u.shape[2]
    d_u = d_u.unflatten(2, (u.shape[2], ratio)).sum(dim=3) if ratio > 1 else d_u
    return d_u, d_delta, d_A, d_B, d_C, adjoint.permute(3, 0, 1, 2).clone(**contiguous)


@chunked_scan_backward.register_fake
def _(d_out, d_last, u, delta, A, B, C, routes, initial_state):
    return *(x.new_empty(x.shape) for x in (u, delta, A, B, C)), delta.new_empty(delta.shape[0], *A.shape)


def _save(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs)
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, d_out: Tensor | None, d_last: Tensor | None) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # once: checkpointing makes them again at each access
    if d_out is None:  # only the last state was used
        d_out = torch.zeros_like(saved[1])
    *gradients, d_initial = chunked_scan_backward(d_out, d_last, *saved)
    return *gradients, None, None if saved[-1] is None else d_initial


chunked_scan.register_autograd(_backward, setup_context=_save)


@register_flop_formula(torch.ops.bestiary.selective_scan_chunked)
def _operations(u, delta, A, *_, out_shape=None, **__) -> int:
    """The usual estimate, 9 multiply-adds a step and state (VMamba's)."""
    return 2 * 9 * delta[0] * delta[1] * A[0] * A[1] * A[2]
