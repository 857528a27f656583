"""What both directions of the scan share in Triton: tiles read and written by strides, step sizes, the recurrence.

Tiles of a step's values are (steps, channels), of its coefficients (steps, states), of states (steps, states,
channels).
"""

import triton
import triton.language as tl


@triton.jit
def tokens(routes, route, first, length, STEPS: tl.constexpr, ROUTED: tl.constexpr, WIDE: tl.constexpr):
    """Where the steps `first` to `first + STEPS` of a route lie, and which of them there are.

    WIDE: a batch item has more elements than 32 bits count; else addresses within it take half the registers.
    """
    step = first + tl.arange(0, STEPS)
    inside = step < length
    token = tl.load(routes + route * length + step, mask=inside, other=0) if ROUTED else step
    return token.to(tl.int64 if WIDE else tl.int32), inside


@triton.jit
def addresses(token, lane, by_token, by_lane, UNIT: tl.constexpr):
    """(steps,) and (lanes,) -> (steps, lanes). UNIT: 1, the lanes' stride is 1; 2, the tokens' is; 0, neither."""
    if UNIT == 1:
        return token[:, None] * by_token + lane[None, :]
    elif UNIT == 2:
        return token[:, None] + lane.to(token.dtype)[None, :] * by_lane
    else:
        return token[:, None] * by_token + lane.to(token.dtype)[None, :] * by_lane


@triton.jit
def load_tile(tensor, token, inside, lane, within, by_token, by_lane, UNIT: tl.constexpr):
    """(steps, lanes) in float32, zeros outside."""
    at = tensor + addresses(token, lane, by_token, by_lane, UNIT)
    return tl.load(at, mask=inside[:, None] & within[None, :], other=0.0).to(tl.float32)


@triton.jit
def store_tile(tensor, token, inside, lane, within, by_token, by_lane, values, UNIT: tl.constexpr):
    at = tensor + addresses(token, lane, by_token, by_lane, UNIT)
    tl.store(at, values.to(tensor.dtype.element_ty), mask=inside[:, None] & within[None, :])


@triton.jit
def load_states(tensor, state, channel, within, by_state, by_channel):
    """(states, channels) in float32, zeros outside."""
    at = tensor + state[:, None] * by_state + channel[None, :] * by_channel
    return tl.load(at, mask=within, other=0.0).to(tl.float32)


@triton.jit
def softplus(x):
    """log(1 + exp(x)) to the last bits at both ends: log(1 + e) as the series of 2 artanh(e / (2 + e))."""
    e = tl.math.exp2(-tl.abs(x) * 1.4426950408889634)
    s = e / (2.0 + e)
    s2 = s * s
    series = 1.0 / 15 + s2 * (1.0 / 17)
    series = 1.0 / 13 + s2 * series
    series = 1.0 / 11 + s2 * series
    series = 1.0 / 9 + s2 * series
    series = 1.0 / 7 + s2 * series
    series = 1.0 / 5 + s2 * series
    series = 1.0 / 3 + s2 * series
    return tl.maximum(x, 0.0) + 2.0 * s * (1.0 + s2 * series)


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.math.exp2(-x * 1.4426950408889634))


@triton.jit
def step_sizes(raw, inside, SOFTPLUS: tl.constexpr):
    """Of `raw` (steps, channels), the bias in it; 0 behind the last step, where the state then stays as it is."""
    sizes = softplus(raw) if SOFTPLUS else raw
    return tl.where(inside[:, None], sizes, 0.0)


@triton.jit
def decay_of(dt, rates):
    """2^(dt * rate): (steps, channels) and (states, channels) -> (steps, states, channels).

    Quick powers of two, those of GPUs and of NumPy, err to one side just below 1, by which a slow state drifts over
    hundreds of steps. There a cubic serves: a minimax fit in relative error (2e-9) that is exactly 1 at 0.
    """
    x = dt[:, None, :] * rates[None]
    slow = 1.0 + x * (0.69314718 + x * (0.24023429 + x * 0.055505950))
    return tl.where(tl.abs(x) < 1.0 / 32, slow, tl.math.exp2(x))


@triton.jit
def pick(values, place):
    """One step of (steps, states, channels). In one thread's registers this is no work."""
    chosen = (tl.arange(0, values.shape[0]) == place)[:, None, None]
    return tl.sum(tl.where(chosen, values, 0.0), 0)


@triton.jit
def walk(decay, added, h):
    """h_t = decay_t h_{t-1} + added_t through a tile (steps, states, channels), from h (states, channels).

    Returns the states behind each step, what of them came from the step before, and the last of them.
    """
    step = tl.arange(0, decay.shape[0])
    states = tl.zeros(decay.shape, tl.float32)
    kept = tl.zeros(decay.shape, tl.float32)
    for place in tl.static_range(0, decay.shape[0]):
        here = (step == place)[:, None, None]
        reached = pick(decay, place) * h
        h = reached + pick(added, place)
        kept = tl.where(here, reached[None], kept)
        states = tl.where(here, h[None], states)
    return states, kept, h


@triton.jit
def walk_back(decay, seeds, carried):
    """The gradients g_t = seeds_t + decay_{t+1} g_{t+1} of the states behind each step of a tile.

    `carried`, (states, channels), comes from the step behind the last. Returns what goes to the step before the first
    too.
    """
    step = tl.arange(0, decay.shape[0])
    gradients = tl.zeros(decay.shape, tl.float32)
    for back in tl.static_range(0, decay.shape[0]):
        place = decay.shape[0] - 1 - back
        g = pick(seeds, place) + carried
        gradients = tl.where((step == place)[:, None, None], g[None], gradients)
        carried = pick(decay, place) * g
    return gradients, carried
