"""The C++ backend of the selective scan: random calls against the definition in float64, and what it must not touch."""

import math
import os
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bestiary.kernels import scan_routes, selective_scan
from bestiary.kernels.selective_scan import cpu
from bestiary.kernels.selective_scan.operators import _definition, run_scan

SHARE = int(os.environ.get("BESTIARY_TEST_SHARE", "1"))  # one of so many random calls: for slower runs of this file
NAMES = "u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state"
OF_U = "u", "delta", "B", "C", "z"  # the tensors in u's dtype
OPTIONAL = "D", "z", "delta_bias", "initial_state"
FORWARD, BACKWARD = torch.ops.bestiary.selective_scan_forward, torch.ops.bestiary.selective_scan_backward
LAYOUTS = "contiguous", "the other way round", "inside NaN", "packed"


@pytest.fixture(autouse=True)
def compiled():
    if reason := cpu.unavailable():
        pytest.skip(reason)


class Case(NamedTuple):
    """A call of the operator. Letters as in reference.py, R routes."""

    batch: int = 2
    length: int = 40
    routes: int = 2
    ratio: int = 1  # routes of a map
    channels: int = 5
    states: int = 3
    given: tuple[str, ...] = OPTIONAL
    softplus: bool = True
    steps_last: bool = False
    ordered: bool = True  # by a table of routes
    layout: str = "contiguous"
    seed: int = 0


@st.composite
def cases(draw) -> Case:
    ratio = draw(st.sampled_from((1, 1, 2, 4)))
    return Case(
        batch=draw(st.sampled_from((1, 1, 2, 3, 0))),
        length=draw(st.sampled_from((0, 1, 2, 7, 15, 16, 17, 31, 32, 33, 47, 64, 65, 70))),
        routes=ratio * draw(st.integers(1, 2)),
        ratio=ratio,
        channels=draw(st.sampled_from((1, 2, 7, 8, 9, 15, 16, 17, 24, 33, 65, 81))),
        states=draw(st.sampled_from((1, 1, 2, 3, 4, 5, 7, 8, 9, 16, 16, 17, 23, 33))),
        given=tuple(name for name in OPTIONAL if draw(st.booleans())),
        softplus=draw(st.booleans()),
        steps_last=draw(st.booleans()),
        ordered=draw(st.booleans()),
        layout=draw(st.sampled_from(LAYOUTS)),
        seed=draw(st.integers(0, 2**31)),
    )


def laid_out(x: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values, lying otherwise in memory."""
    if layout == "the other way round":
        return x.permute(*reversed(range(x.ndim))).contiguous().permute(*reversed(range(x.ndim)))
    if layout == "inside NaN":
        return x.new_full([n + 2 for n in x.shape], float("nan"))[(slice(1, -1),) * x.ndim].copy_(x)
    if layout == "packed":  # beside others in the last axis
        return torch.cat((torch.full_like(x, float("nan")), x), dim=-1)[..., x.shape[-1] :]
    return x


def make(case: Case, dtype: torch.dtype) -> tuple[dict[str, torch.Tensor | None], torch.Tensor | None]:
    """The tensors of a call by name, and its routes."""
    generator = torch.Generator().manual_seed(case.seed)
    wide = torch.promote_types(dtype, torch.float32)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def steps(count: int, width: int) -> torch.Tensor:
        x = normal(case.batch, case.length, count, width).to(dtype)
        return laid_out(x.permute(0, 2, 3, 1).contiguous() if case.steps_last else x, case.layout)

    of_route = case.routes, case.channels
    tensors = dict(
        u=steps(case.routes // case.ratio, case.channels),
        delta=steps(*of_route),
        A=(-2 * torch.rand(*of_route, case.states, generator=generator) - 0.01).to(wide),
        B=steps(case.routes, case.states),
        C=steps(case.routes, case.states),
        D=normal(*of_route).to(wide),
        z=steps(*of_route),
        delta_bias=normal(*of_route).to(wide),
        initial_state=laid_out(normal(case.batch, *of_route, case.states).to(wide), case.layout),
    )
    if not case.softplus:
        tensors["delta"].abs_()
        tensors["delta_bias"].abs_()
    order = torch.stack([torch.randperm(case.length, generator=generator) for _ in range(case.routes)])
    return {k: x if k in case.given or k not in OPTIONAL else None for k, x in tensors.items()}, (
        order if case.ordered else None
    )


def _gradients(ends: list[tuple[torch.Tensor, torch.Tensor]], tensors: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    if not ends:
        return tuple(map(torch.zeros_like, tensors))
    outputs, seeds = zip(*ends, strict=True)
    return torch.autograd.grad(outputs, tensors, seeds, allow_unused=True, materialize_grads=True)


def results(run, case: Case, tensors, routes, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Output, last state and all gradients of `run`, in float64; `dtype` casts first."""
    inputs = [None if x is None else x.detach().to(dtype or x.dtype).requires_grad_() for x in tensors.values()]
    out, last = run(*inputs, routes, case.softplus, case.steps_last)
    generator = torch.Generator().manual_seed(case.seed + 1)
    seeds = [torch.randn(x.shape, generator=generator).to(tensors["u"].dtype).to(x.dtype) for x in (out, last)]
    some = [x for x in inputs if x is not None]
    # Of no steps and no initial state the definition's outputs are constants.
    ends = [(x, seed) for x, seed in zip((out, last), seeds, strict=True) if x.requires_grad]
    grads = iter(_gradients(ends, some))
    found = {"out": out, "last": last} | {
        name: next(grads) for name, x in zip(NAMES, inputs, strict=True) if x is not None
    }
    return {name: x.detach().double() for name, x in found.items()}


def judge(case: Case, dtype: torch.dtype) -> None:
    """Some roundings of float32 of the largest value of a tensor, one of its own dtype, or twice the definition's."""
    tensors, routes = make(case, dtype)
    found, truth = results(run_scan, case, tensors, routes), results(_definition, case, tensors, routes, torch.float64)
    assert found.keys() == truth.keys()
    for name, wanted in truth.items():
        assert found[name].shape == wanted.shape, f"{name}: {found[name].shape}"
        if wanted.numel():
            # A gradient of few numbers is a sum over many, of both signs, and can be smaller than any of them.
            terms = case.batch * case.length if name in ("A", "D", "delta_bias") else case.channels * case.ratio
            eps = 8 * torch.finfo(torch.float32).eps + (name in (*OF_U, "out")) * torch.finfo(dtype).eps
            bound = eps * (wanted.abs().max().item() + terms**0.5)
            error = (found[name] - wanted).abs().max().item()
            if error > bound:  # rare: cancellation, which is the definition's as well
                wide = torch.promote_types(dtype, torch.float32)
                bound += 2 * (results(_definition, case, tensors, routes, wide)[name] - wanted).abs().max().item()
            assert error <= bound, f"{name}: error {error:.3g}, allowed {bound:.3g}"


MANY = [(torch.float32, 300), (torch.bfloat16, 100), (torch.float16, 100)]


@pytest.mark.parametrize(
    ("dtype", "count"),
    [(dtype, count // 3) for dtype, count in MANY] + [pytest.param(*case, marks=pytest.mark.slow) for case in MANY],
    ids=str,
)
def test_random_calls(dtype, count, poisoned):
    @settings(
        max_examples=count // SHARE, deadline=None, derandomize=True, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases())
    def calls(case):
        judge(case, dtype)

    calls()


@pytest.mark.parametrize("states", [64, 100, 256])
def test_many_states(states):
    judge(Case(1, 40, 1, 1, 17, states), torch.float32)


@pytest.mark.parametrize("steps_last", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_a_step_hangs_on_the_steps_before_it_alone(ordered, steps_last):
    """NaN in all that comes later in a route, and gradients from what came before, change nothing."""
    case = Case(1, 70, 1, 1, 19, 5, steps_last=steps_last, ordered=ordered)
    tensors, routes = make(case, torch.float32)
    out, last, states = FORWARD(*tensors.values(), routes, True, steps_last, 32)
    d_out, d_last = torch.randn_like(out), torch.randn_like(last)
    grads = BACKWARD(d_out, d_last, states, *tensors.values(), routes, True, steps_last, 32)
    order = routes[0] if ordered else torch.arange(70)
    axis = 3 if steps_last else 1
    for t in (0, 1, 15, 16, 31, 32, 33, 63, 64, 68):
        spoilt = {
            name: x.index_fill(axis, order[t + 1 :], math.nan) if name in OF_U else x for name, x in tensors.items()
        }
        found = FORWARD(*spoilt.values(), routes, True, steps_last, 32)[0]
        assert torch.equal(found.index_select(axis, order[: t + 1]), out.index_select(axis, order[: t + 1]))
        spoilt = d_out.index_fill(axis, order[:t], math.nan)
        found = BACKWARD(spoilt, d_last, states, *tensors.values(), routes, True, steps_last, 32)
        for name, one, other in zip(NAMES, found, grads, strict=True):
            if name in ("u", "delta", "B", "z"):
                later = order[t:]
                assert torch.equal(one.index_select(axis, later), other.index_select(axis, later)), name


@pytest.mark.parametrize("steps_last", [False, True])
def test_channels_lie_in_lanes_of_their_own(steps_last):
    """NaN in one channel, batch item or route: the others' results stay what they were."""
    case = Case(2, 37, 2, 1, 70, 3, steps_last=steps_last)
    tensors, routes = make(case, torch.float32)
    out, last, states = FORWARD(*tensors.values(), routes, True, steps_last, 32)
    d_out = torch.randn_like(out)
    axes = (0, 1, 2) if steps_last else (0, 2, 3)  # batch, route, channel
    for axis, place in zip(axes * 3, (0, 0, 0, 1, 1, 16, 0, 1, 69), strict=True):
        where = torch.tensor([place])
        others = torch.tensor([i for i in range(out.shape[axis]) if i != place])
        with_channels = ("u", "delta", "z") if axis == axes[2] else OF_U
        spoilt = {
            name: x.index_fill(axis, where, math.nan) if name in with_channels else x for name, x in tensors.items()
        }
        found, _, kept = FORWARD(*spoilt.values(), routes, True, steps_last, 32)
        assert torch.equal(found.index_select(axis, others), out.index_select(axis, others))
        assert found.index_select(axis, where).isnan().all()
        clean = BACKWARD(d_out, None, states, *tensors.values(), routes, True, steps_last, 32)
        dirty = BACKWARD(d_out, None, kept, *spoilt.values(), routes, True, steps_last, 32)
        for name, one, other in zip(NAMES, dirty, clean, strict=True):
            if name in with_channels:
                assert torch.equal(one.index_select(axis, others), other.index_select(axis, others)), name


@pytest.mark.parametrize("steps_last", [False, True])
def test_two_threads_and_a_second_run_give_the_same_bits(steps_last):
    case = Case(2, 300, 2, 2, 200, 5, steps_last=steps_last, ordered=not steps_last)
    tensors, routes = make(case, torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 2, 3):
            torch.set_num_threads(threads)
            out, last, states = FORWARD(*tensors.values(), routes, True, steps_last, 32)
            grads = BACKWARD(out, last, states, *tensors.values(), routes, True, steps_last, 32)
            found.append((out, last, states, *grads))
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(x, y) for x, y in zip(found[0], other, strict=True))


def test_step_sizes_and_decays_are_precise():
    """Softplus, its slope and the exponential in float32, for small and large arguments alike."""
    eps = torch.finfo(torch.float32).eps
    raw = torch.cat((torch.linspace(-87, 100, 20001), torch.linspace(-2, 2, 2001))).requires_grad_()
    ones = torch.ones(1, len(raw), 1)
    size = selective_scan(
        ones, raw[None, :, None], -ones[0], ones[:, :1], ones[:, :1], delta_softplus=True, backend="cpu"
    )
    slope = torch.autograd.grad(size.sum(), raw)[0]
    exact = raw.detach().double().requires_grad_()
    wanted = torch.log1p(torch.exp(exact))
    for ours, truth in ((size[0, :, 0], wanted), (slope, torch.autograd.grad(wanted.sum(), exact)[0])):
        assert ((ours - truth).abs() / truth).max() <= 3 * eps
    steps = torch.cat((torch.linspace(0, 87, 20001), torch.tensor([100.0, 1e4, 1e30, math.inf])))
    zeros, start = torch.zeros(1, len(steps), 1), torch.ones(1, len(steps), 1)
    for sign in (-1.0, 1.0):
        rates = torch.full((len(steps), 1), sign)
        _, last = selective_scan(
            zeros, steps[None, :, None], rates, ones[:, :1], ones[:, :1], return_last_state=True, initial_state=start,
            backend="cpu",
        )  # fmt: skip
        truth, argument = (sign * steps.double()).exp(), steps[:-4]
        error = ((last[0, :, 0] - truth).abs() / truth)[:-4]
        assert (error <= eps * (1 + 1.5 * argument)).all()
        if sign < 0:
            assert (last[0, -4:-1] < 2e-38).all()
        else:
            assert last[0, -4:-1].isinf().all() or (last[0, -4:-1] > 1e38).all()


@pytest.mark.parametrize("backend", ["cpu", "chunked"])
def test_65536_steps_neither_overflow_nor_drift(backend):
    """Within twice the error of the sequential scan in float32; decays from slow to instant."""
    length = 65536
    generator = np.random.default_rng(0)
    u, raw = generator.standard_normal((2, 4, length))
    b, c = generator.standard_normal((2, 2, length))
    A = np.array([[-1e-4, -0.01], [-0.1, -1.0], [-16.0, -1.0], [-300.0, -1e-3]])

    def sequential(dtype):
        dt = np.logaddexp(0, raw.astype(dtype))
        x, rates, of_b, of_c = (v.astype(dtype) for v in (u, A, b, c))
        decays, inputs = np.exp(dt[..., None] * rates[:, None]), (dt * x)[..., None] * of_b.T
        h, out = np.zeros((4, 2), dtype), np.empty((4, length), dtype)
        states = np.empty((length, 4, 2), dtype)
        for t in range(length):
            h = decays[:, t] * h + inputs[:, t]
            states[t] = h
        out[:] = (states * of_c.T[:, None]).sum(-1).T
        return out

    single = [torch.from_numpy(x).float() for x in (u[None], raw[None], A, b[None], c[None])]
    truth = sequential(np.float64)
    allowed = np.abs(sequential(np.float32) - truth).max()
    ours = selective_scan(*single, delta_softplus=True, backend=backend)[0].double().numpy()
    assert np.isfinite(ours).all()
    assert np.abs(ours - truth).max() <= 2 * allowed


def test_routes_that_lead_outside_are_refused():
    case = Case(1, 9, 1, 1, 3, 2, given=())
    tensors, routes = make(case, torch.float32)
    u, delta, A, B, C, *_ = tensors.values()
    for wrong in (9, -1):
        routes[0, 4] = wrong
        with pytest.raises(RuntimeError, match="the routes name steps that are not there"):
            scan_routes(u, routes, delta, A, B, C, backend="cpu")
