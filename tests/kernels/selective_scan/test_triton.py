"""The selective scan in Triton: on a GPU, and under Triton's interpreter with few and small programs.

Triton reads TRITON_INTERPRET when it is imported, so the cases run in processes of their own: this file again, started
by `test_under_the_interpreter`. TRITON_INTERPRET=1 pytest THIS_FILE runs them here.
"""

import os
import random
import re
import subprocess
import sys
from typing import NamedTuple

import pytest
import torch
from shares import one_day_in

from bestiary.errors import InputError
from bestiary.kernels import scan_routes, selective_scan
from bestiary.kernels.selective_scan import operators
from bestiary.kernels.selective_scan import triton as backend
from bestiary.kernels.selective_scan.dispatch import OPERATOR, ROUTES, rank
from bestiary.kernels.selective_scan.triton import tiling

pytest.importorskip("triton")

INTERPRETED = backend.interpreted()
DEVICE = "cpu" if INTERPRETED else "cuda"
PARTS = 4  # processes
on_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="no GPU; test_under_the_interpreter runs it on the CPU"
)
NAMES = "out", "last", "d_u", "d_delta", "d_A", "d_B", "d_C", "d_D", "d_z", "d_bias", "d_initial"
OF_U = 0, 1, 3, 4, 6  # of the operator's tensors, those in u's dtype


@pytest.fixture(autouse=True)
def small_programs(monkeypatch):
    """The interpreter spends its time on what a program is given; 5 channels are two programs then."""
    if INTERPRETED:
        monkeypatch.setattr(tiling, "CHANNELS", 4)


class Case(NamedTuple):
    """A call of the operators; letters as in operators.py."""

    length: int
    states: int
    channels: int = 5
    maps: int = 1
    ratio: int = 1
    batch: int = 1
    steps_last: bool = False
    routed: bool = False
    softplus: bool = True
    given: str = "Dzbi"  # D, z, delta_bias, initial_state
    seeds: str = "ol"  # gradients of the output and of the last state
    chunk: int = 4


def random_case(number: int) -> Case:
    draw = random.Random(number)
    return Case(
        draw.choice((1, 2, 5, 8, 9, 13)), draw.choice((1, 1, 2, 3, 5)), draw.randint(1, 6), draw.randint(1, 2),
        draw.randint(1, 2), draw.randint(1, 2), draw.random() < 0.5, draw.random() < 0.5, draw.random() < 0.7,
        "".join(letter for letter in "Dzbi" if draw.random() < 0.5), draw.choice(("ol", "o", "l")),
        draw.choice((1, 3, 4, 8, 64)),
    )  # fmt: skip


CASES = [
    Case(9, 2, ratio=2, routed=True),
    Case(7, 3, maps=2, steps_last=True, softplus=False),  # channels in two blocks, states in a block of four
    Case(21, 1, routed=True, given="Db", seeds="o", chunk=8),  # as in VMamba; three chunks, of several tiles
    Case(5, 1, channels=3, steps_last=True, given="", seeds="l", chunk=64),
    Case(1, 2, given="zi", batch=2),
    Case(6, 17, channels=2, given="D", seeds="o", chunk=2),  # states over several warps
]
RANDOM = [random_case(number) for number in range(8)]
MORE = [random_case(number) for number in range(100, 140)]
WIDE = [  # as networks have them: on a GPU alone
    Case(3136, 1, 96, 4, batch=2, routed=True, given="Db", seeds="o", chunk=64),
    Case(200, 16, 96, 1, 4, batch=2, routed=True, given="Db", seeds="o", chunk=64),
    Case(197, 16, 384, batch=2, steps_last=True, given="Dzb", chunk=64),
    Case(130, 64, 33, 2, chunk=64),
    Case(70, 256, 40, steps_last=True, chunk=64),
    Case(70, 128, 40, chunk=64),
]


def tensors(case: Case, dtype: torch.dtype) -> tuple[list, list, list]:
    """The nine tensors of the operators, routes and options; then the gradients of the output and the last state."""
    generator = torch.Generator().manual_seed(case.length)
    routes = case.maps * case.ratio

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    def over_steps(count: int, width: int) -> torch.Tensor:
        """A view with gaps, as of a packed projection."""
        if case.steps_last:
            return normal(case.batch, count, width + 1, case.length)[:, :, 1:]
        return normal(case.batch, case.length, count, width + 2)[..., 1:-1]

    state = case.batch, routes, case.channels, case.states
    u, delta, z = (over_steps(count, case.channels) for count in (case.maps, routes, routes))
    B, C = over_steps(routes, case.states), over_steps(routes, case.states)
    A = -2 * torch.rand(*state[1:], generator=generator)
    D, bias, start = normal(*state[1:3]), normal(*state[1:3]), normal(*state[::-1]).permute(3, 2, 1, 0)
    if not case.softplus:
        delta, bias = delta.abs(), bias.abs()
    found = [
        u,
        delta,
        A,
        B,
        C,
        *(x if name in case.given else None for name, x in zip("Dzbi", (D, z, bias, start), strict=True)),
    ]
    found = [None if x is None else (x.to(dtype) if i in OF_U else x).to(DEVICE) for i, x in enumerate(found)]
    order = [torch.randperm(case.length, generator=generator) for _ in range(routes)]
    table = torch.stack(order).to(DEVICE) if case.routed else None
    d_out = normal(*delta.shape).to(dtype).to(DEVICE) if "o" in case.seeds else None
    d_last = normal(*state).to(DEVICE) if "l" in case.seeds else None
    return found, [table, case.softplus, case.steps_last], [d_out, d_last]


def ours(case: Case, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    given, options, (d_out, d_last) = tensors(case, dtype)
    out, last, states = backend.forward(*given, *options, case.chunk)
    assert out.is_contiguous() and out.dtype == dtype and last.dtype == torch.float32
    assert torch.equal(backend.forward(*given, *options, 0)[0], out)
    d_out = torch.zeros_like(out) if d_out is None else d_out
    grads = backend.backward(d_out, d_last, states, *given, *options, case.chunk)
    for name, grad, tensor in zip(NAMES[2:], grads, given, strict=True):
        if name != "d_initial":
            assert grad.shape == ((0,) if tensor is None else tensor.shape), name
            assert tensor is None or grad.dtype == tensor.dtype, name
    found = dict(zip(NAMES, (out, last, *grads), strict=True))
    given_too = (True, True, *(x is not None for x in given))
    return {name: x.double().cpu() for (name, x), there in zip(found.items(), given_too, strict=True) if there}


def by_autograd(case: Case, dtype: torch.dtype, wide: torch.dtype) -> dict[str, torch.Tensor]:
    given, (table, *options), (d_out, d_last) = tensors(case, dtype)
    given = [None if x is None else x.cpu().to(wide).requires_grad_() for x in given]
    outputs = operators._definition(*given, None if table is None else table.cpu(), *options)
    seeds = [(y, d.cpu().to(y.dtype)) for y, d in zip(outputs, (d_out, d_last), strict=True) if d is not None]
    learnt = [x for x in given if x is not None]
    ends, seeds = zip(*seeds, strict=True)
    grads = iter(torch.autograd.grad(ends, learnt, seeds, allow_unused=True, materialize_grads=True))
    found = [*outputs, *(None if x is None else next(grads) for x in given)]
    return {name: x.detach().double() for name, x in zip(NAMES, found, strict=True) if x is not None}


def judge(case: Case, dtype: torch.dtype) -> None:
    """Against float64: twice the error of the definition in float32, a few roundings, and that of the result."""
    found, truth, usual = (
        ours(case, dtype),
        by_autograd(case, dtype, torch.float64),
        by_autograd(case, dtype, torch.float32),
    )
    assert found.keys() == truth.keys()
    for name, wanted in truth.items():
        if not wanted.numel():
            continue
        error = (found[name] - wanted).abs().max().item()
        theirs = (usual[name] - wanted).abs().max().item()
        size = max(1.0, wanted.abs().max().item())
        in_u = NAMES.index(name) - 2 in OF_U or name == "out"
        # The interpreter truncates bfloat16 where a GPU rounds.
        floor = 8 * torch.finfo(torch.float32).eps + (torch.finfo(dtype).eps if in_u and dtype != torch.float32 else 0)
        print(f"{name}: error {error:.2e}, the definition's in float32 {theirs:.2e}")
        assert error <= 2 * theirs + floor * size, f"{name}: {error:.3g}, the definition's in float32 {theirs:.3g}"


def split(cases) -> list:
    """Cases with the process that runs them in their name."""
    return [pytest.param(case, id=f"part{i % PARTS}-{i}") for i, case in enumerate(cases)]


@on_device
@pytest.mark.parametrize("case", split(CASES + RANDOM))
def test_float32(case, poisoned):
    judge(case, torch.float32)


@on_device
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", split(CASES[:3]))
def test_16_bits(case, dtype, poisoned):
    judge(case, dtype)


@on_device
@pytest.mark.slow
@pytest.mark.parametrize("case", split(MORE))
def test_more_random_calls(case, poisoned):
    judge(case, torch.float32)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", WIDE)
def test_sizes_of_networks(case, dtype, poisoned):
    judge(case, dtype)


@on_device
def test_part0_equal_at_every_run_and_by_slices_of_the_batch(monkeypatch):
    from bestiary.kernels.selective_scan.triton import gradients

    case = Case(3, 1, 3, ratio=2, batch=2, routed=True)
    first = ours(case, torch.float32)
    monkeypatch.setattr(gradients, "WORKSPACE", 1)
    second = ours(case, torch.float32)
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


@on_device
def test_part1_through_the_public_operators():
    generator = torch.Generator().manual_seed(1)
    u, delta = torch.randn(2, 2, 4, 5, generator=generator).to(DEVICE).requires_grad_().unbind()
    A = (-torch.rand(4, 2, generator=generator)).to(DEVICE).requires_grad_()
    B = torch.randn(2, 2, 5, generator=generator).to(DEVICE).requires_grad_()
    C = torch.randn(2, 2, 2, 5, generator=generator).to(DEVICE).requires_grad_()
    results = []
    for name in ("triton", "reference"):
        out, last = selective_scan(u, delta, A, B, C, delta_softplus=True, return_last_state=True, backend=name)
        results.append((out, last, *torch.autograd.grad(out.pow(2).sum() + last.sum(), (u, delta, A, B, C))))
    for x, y in zip(*results, strict=True):
        torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5)
    routes = torch.stack([torch.randperm(5, generator=generator) for _ in range(2)]).to(DEVICE)
    x, dt = (t.detach().movedim(-1, 1)[:, :, None].expand(-1, -1, count, -1) for t, count in ((u, 1), (delta, 2)))
    b, c = (t.detach().permute(0, 3, 1, 2) for t in (C, C.flip(1)))
    given = x, routes, dt, A.detach().expand(2, -1, -1), b, c
    out, wanted = (scan_routes(*given, delta_softplus=True, backend=name) for name in ("triton", "reference"))
    torch.testing.assert_close(out, wanted, rtol=1e-4, atol=1e-5)


@on_device
def test_part1_registered_as_operators():
    """Schemas, and fake tensors of the same shapes, dtypes and strides."""
    given, options, (d_out, d_last) = tensors(Case(3, 1, 3, ratio=2, given="Db"), torch.float32)
    of_torch, checks = torch.ops.bestiary, ("test_schema", "test_faketensor")
    torch.library.opcheck(of_torch.selective_scan_triton_forward, (*given, *options, 2), test_utils=checks)
    states = backend.forward(*given, *options, 2)[2]
    arguments = d_out, d_last, states, *given, *options, 2
    torch.library.opcheck(of_torch.selective_scan_triton_backward, arguments, test_utils=checks)


@on_device
@pytest.mark.parametrize(("batch", "length"), [(0, 3), (2, 0)], ids=["part0-batch", "part1-length"])
def test_nothing_to_do(batch, length):
    given, options, _ = tensors(Case(length, 2, batch=batch), torch.float32)
    out, last, states = backend.forward(*given, *options, 4)
    assert out.shape == given[1].shape and torch.equal(last, given[-1]) and states.shape[0] == -(-length // 4)
    grads = backend.backward(out, torch.ones_like(last), states, *given, *options, 4)
    assert [g.shape for g in grads] == [x.shape for x in given]
    assert not any(g.any() for g in grads[:-1]) and bool((grads[-1] == 1).all())


@on_device
def test_part3_long_sequences_do_not_drift():
    case = Case(1500, 1, 6, given="", seeds="o", chunk=64)
    given, options, _ = tensors(case, torch.float32)
    given[2] = torch.tensor([-1e-4, -1e-3, -0.02, -0.1, -16.0, -300.0], device=DEVICE).view(1, 6, 1)
    out = backend.forward(*given, *options, 0)[0]
    in_64, in_32 = (
        operators._definition(*(None if x is None else x.cpu().to(dtype) for x in given), *options)[0]
        for dtype in (torch.float64, torch.float32)
    )
    ours, sequential = ((x.cpu() - in_64).abs().amax((0, 1, 2)) for x in (out, in_32))
    assert (ours <= 2 * sequential + 1e-7).all(), (ours, sequential)


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
@pytest.mark.parametrize("part", [pytest.param(part, marks=pytest.mark.slow if part else ()) for part in range(PARTS)])
@one_day_in(4, 17)
def test_under_the_interpreter(part):
    """The cases above in a process of their own, on the CPU."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow and not gpu", "-k", f"part{part}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, *options],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= len((CASES + RANDOM)[part::PARTS]) + 2 and "skipped" not in done.stdout


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="there is a device that it takes")
def test_it_says_why_it_does_not_run_here():
    assert "there is no CUDA device here" in backend.unavailable()
    u = torch.randn(1, 5, 5)
    with pytest.raises(InputError, match=r"'triton' cannot serve this call: it takes CUDA tensors, these are on cpu"):
        selective_scan(u, u, -u[0], u, u, backend="triton")


def test_what_it_does_not_take(monkeypatch):
    monkeypatch.setattr(backend, "interpreted", lambda: True)
    call = operators_call()
    assert backend.why_not(call) is None
    for change, reason in (
        (dict(dtype=torch.float64), "it takes float32, float16 and bfloat16, not torch.float64"),
        (dict(is_complex=True), "it takes a real A, this one is complex"),
        (dict(constant=True), "it takes a B and a C for each step"),
        (dict(states=257), "it takes up to 256 states a channel, these are 257"),
        (dict(forward_mode=True), "it has no forward-mode derivative"),
        (dict(device=torch.device("meta")), "it takes CUDA tensors, these are on meta"),
    ):
        assert backend.why_not(call._replace(**change)).startswith(reason)


def operators_call():
    from bestiary.kernels.selective_scan.arguments import Call

    fields = dict.fromkeys(Call._fields, False)
    return Call(**fields | dict(device=torch.device("cpu"), dtype=torch.float32, states=256))


@pytest.mark.parametrize("backward", [False, True])
@pytest.mark.parametrize("steps_last", [False, True])
def test_tiles_by_the_rule(steps_last, backward):
    """A tile's steps lie in one thread: its states and channels fill all warps; chunks are whole tiles."""
    for states in (1, 2, 3, 16, 17, 64, 200, 256):
        for chunk in (0, 1, 6, 32, 64):
            found = tiling.tiling(states, chunk, steps_last, backward)
            assert states <= found.states < 2 * states or found.states == states == 1
            if not INTERPRETED:
                assert found.states * found.channels >= 32 * found.warps
            assert not chunk or chunk % found.steps == 0


def test_it_is_tried_first_on_a_gpu_and_never_unasked_on_a_cpu():
    call = operators_call()
    assert rank(call._replace(device=torch.device("cuda")))[0] == "triton"
    assert "triton" not in rank(call) and "triton" in OPERATOR.backends and "triton" in ROUTES.backends


def test_where_32_bits_count_too_few_elements():
    """By strides, and by the size of what is written."""
    from bestiary.kernels.selective_scan.triton.scan import reach

    assert reach(torch.empty(1, 5, 2, 3)) == 30
    assert reach(torch.empty(1, 1, 1, 1, device="meta").expand(4, 2**16, 2**8, 2**8)) == 2**32
    assert reach(torch.empty(2, 3, device="meta").as_strided((2, 3), (1, 2**30))) == 2**31
