"""The selective scan against loops over its definition in float64, and as an operator like PyTorch's own."""

import itertools
import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bestiary.errors import InputError
from bestiary.kernels import backends, scan_routes, selective_scan, use_backend
from bestiary.kernels.selective_scan import chunked
from bestiary.kernels.selective_scan.dispatch import OPERATOR

NAMES = tuple(
    name for name in OPERATOR.backends if name not in ("triton", "mamba_ssm", "torch_scan")
)  # theirs are elsewhere
F64 = torch.float64


def by_loops(u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, h0=None):
    """One number at a time, in Python's floats; B and C (B, N, L) or (B, G, N, L)."""
    given = (u, delta, A, B, C, D, z, delta_bias, h0)
    u, delta, A, B, C, D, z, delta_bias, h0 = (None if x is None else x.detach() for x in given)
    batch, channels, length = u.shape
    states = A.shape[1]
    B, C = (x[:, None] if x.ndim == 3 else x for x in (B, C))
    out, last = torch.empty(u.shape, dtype=F64), torch.empty(batch, channels, states, dtype=F64)
    for b, d in itertools.product(range(batch), range(channels)):
        of_b, of_c = (x[b, d * x.shape[1] // channels].tolist() for x in (B, C))
        a = A[d].tolist()
        h = [0.0] * states if h0 is None else h0[b, d].tolist()
        for t in range(length):
            dt, x = float(delta[b, d, t]), float(u[b, d, t])
            dt += 0.0 if delta_bias is None else float(delta_bias[d])
            if delta_softplus:
                dt = math.log1p(math.exp(dt)) if dt <= 20 else dt
            h = [math.exp(dt * a[n]) * h[n] + dt * of_b[n][t] * x for n in range(states)]
            y = sum(of_c[n][t] * h[n] for n in range(states)) + (0.0 if D is None else float(D[d]) * x)
            gate = 1.0 if z is None else float(z[b, d, t]) / (1 + math.exp(-float(z[b, d, t])))
            out[b, d, t] = y * gate
        last[b, d] = torch.tensor(h, dtype=F64)
    return out, last


def inputs(batch, channels, length, states, groups=1, dtype=F64, seed=0, flat=False):
    """u, delta, A, B, C, D, z, delta_bias, h0."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)

    def coefficients():
        return random(batch, states, length) if flat else random(batch, groups, states, length)

    A = -torch.rand(channels, states, generator=generator, dtype=F64).to(dtype) * 2 - 0.01
    u, delta = random(batch, channels, length), random(batch, channels, length)
    B, C = coefficients(), coefficients()
    z = random(batch, channels, length)
    return u, delta, A, B, C, random(channels), z, random(channels), random(batch, channels, states)


@pytest.fixture
def short_blocks(monkeypatch):
    """Several blocks, of several chunks, in sequences of a few steps."""
    monkeypatch.setattr(chunked, "STATES_OF_A_BLOCK", {"cpu": 1})
    monkeypatch.setattr(chunked, "STATES_AT_ONCE", {"cpu": 1 << 17})
    monkeypatch.setattr(chunked, "FEWEST_STEPS", 3)


@pytest.mark.parametrize("backend", NAMES)
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(0, 3),
    per_group=st.integers(1, 3),
    length=st.integers(0, 40),
    states=st.sampled_from([1, 2, 5]),
    groups=st.integers(1, 3),
    flat=st.booleans(),
    given_=st.lists(st.booleans(), min_size=5, max_size=5),
    cut=st.sampled_from([(1 << 22, 16), (1, 1), (1, 3), (60, 5)]),
    seed=st.integers(0, 99),
)
def test_it_is_its_definition(backend, batch, per_group, length, states, groups, flat, given_, cut, seed):
    channels = per_group * (1 if flat else groups)
    u, delta, A, B, C, D, z, bias, h0 = inputs(batch, channels, length, states, groups, seed=seed, flat=flat)
    has_d, has_z, has_bias, has_h0, softplus = given_
    D, z, bias, h0 = (x if has else None for x, has in ((D, has_d), (z, has_z), (bias, has_bias), (h0, has_h0)))
    if not softplus:
        delta = delta.abs()
        bias = None if bias is None else bias.abs()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "STATES_OF_A_BLOCK", {"cpu": cut[0]})
        patch.setattr(chunked, "FEWEST_STEPS", cut[1])
        out, last = selective_scan(u, delta, A, B, C, D, z, bias, softplus, True, h0, backend)
    expected, expected_last = by_loops(u, delta, A, B, C, D, z, bias, softplus, h0)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last, expected_last, rtol=1e-10, atol=1e-10)


def test_one_of_two_with_groups_the_other_without():
    u, delta, A, B, C, *_ = inputs(2, 6, 9, 2, 3)
    for b, c in ((B, C[:, 0]), (B[:, 1], C), (B[:, :1], C)):
        expected, _ = by_loops(u, delta.abs(), A, b, c)
        for backend in NAMES:
            torch.testing.assert_close(selective_scan(u, delta.abs(), A, b, c, backend=backend), expected)


@pytest.mark.parametrize("batch", [0, 1, 2])
@pytest.mark.parametrize("length", [0, 1, 2])
@pytest.mark.parametrize("backend", NAMES)
def test_short_sequences(backend, length, batch):
    u, delta, A, B, C, D, z, bias, h0 = (x.requires_grad_() for x in inputs(batch, 3, length, 2))
    out, last = selective_scan(u, delta, A, B, C, D, z, bias, True, True, h0, backend)
    assert out.shape == (batch, 3, length)
    (last.sum() + out.sum()).backward()
    assert h0.grad.shape == h0.shape
    if length:
        assert all(x.grad.shape == x.shape and torch.isfinite(x.grad).all() for x in (u, delta, A, B, C))
    expected, expected_last = by_loops(u, delta, A, B, C, D, z, bias, True, h0)
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(last, expected_last)
    if length == 0:
        assert torch.equal(last, h0)


@pytest.mark.parametrize("backend", NAMES)
def test_gradients(backend, short_blocks):
    """Of every tensor, through output and last state, by finite differences."""
    given = [x.requires_grad_() for x in inputs(2, 4, 11, 2, 2)]

    def run(u, delta, A, B, C, D, z, bias, h0):
        return selective_scan(u, delta, A, B, C, D, z, bias, True, True, h0, backend)

    assert torch.autograd.gradcheck(run, given)
    some = [x.requires_grad_() for x in inputs(1, 2, 4, 1)[:5]]
    assert torch.autograd.gradcheck(lambda *x: selective_scan(*x, delta_softplus=True, backend=backend), some)
    only_last = torch.autograd.grad(run(*given)[1].pow(2).sum(), given, allow_unused=True)
    assert [g is not None and bool(g.abs().sum() > 0) for g in only_last] == [
        True, True, True, True, False, False, False, True, True,
    ]  # fmt: skip


def test_second_derivatives_of_the_definition():
    some = [x.requires_grad_() for x in inputs(1, 2, 3, 2)[:5]]
    run = lambda *x: selective_scan(*x, delta_softplus=True, backend="reference")  # noqa: E731
    assert torch.autograd.gradgradcheck(run, some)


def test_forward_mode_is_served_by_the_definition():
    u, delta, A, B, C, *_ = inputs(1, 2, 5, 2)
    out, moved = torch.func.jvp(lambda x: selective_scan(x, delta, A, B, C), (u,), (torch.ones_like(u),))
    torch.testing.assert_close(moved, selective_scan(torch.ones_like(u), delta, A, B, C))  # linear in u
    for backend, why in (("chunked", "it takes no part in torch.func"), ("cpu", "it has no forward-mode derivative")):
        with pytest.raises(InputError, match=f"backend '{backend}' cannot serve this call: {why}"):
            torch.func.jvp(lambda x: selective_scan(x, delta, A, B, C, backend=backend), (u,), (u,))  # noqa: B023


def test_coefficients_that_are_constant_in_time():
    u, delta, A, B, C, *_ = inputs(2, 3, 7, 2)
    constant = torch.randn(3, 2, dtype=F64, generator=torch.Generator().manual_seed(5))
    per_channel = constant[None, :, :, None].expand(2, 3, 2, 7)  # a group a channel
    torch.testing.assert_close(
        selective_scan(u, delta, A, constant, C), by_loops(u, delta, A, per_channel, C.expand(-1, 3, -1, -1))[0]
    )
    torch.testing.assert_close(
        selective_scan(u, delta, A, B, constant), by_loops(u, delta, A, B.expand(-1, 3, -1, -1), per_channel)[0]
    )


def test_complex_states():
    generator = torch.Generator().manual_seed(0)
    batch, channels, length, states = 2, 3, 6, 2
    u, delta = torch.randn(2, batch, channels, length, dtype=F64, generator=generator)
    A = torch.randn(channels, states, dtype=torch.complex128, generator=generator)
    B, C = torch.randn(2, batch, states, length, dtype=torch.complex128, generator=generator)
    expected = torch.zeros(batch, channels, length, dtype=F64)
    for b, d, n in itertools.product(range(batch), range(channels), range(states)):
        h = 0j
        for t in range(length):
            dt = float(delta[b, d, t])
            rate = complex(A[d, n]) * dt
            decay = math.exp(rate.real) * complex(math.cos(rate.imag), math.sin(rate.imag))
            h = decay * h + dt * complex(B[b, n, t]) * float(u[b, d, t])
            expected[b, d, t] += 2 * (complex(C[b, n, t]) * h).real
    interleaved = [torch.view_as_real(x).flatten(2) for x in (B, C)]
    out, last = selective_scan(u, delta, A, *interleaved, return_last_state=True)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    assert last.dtype == torch.complex128 and last.shape == (batch, channels, states)
    for backend in ("cpu", "chunked"):
        with pytest.raises(InputError, match=f"backend '{backend}' cannot serve this call: it takes a real A"):
            selective_scan(u, delta, A, *interleaved, backend=backend)


@pytest.mark.parametrize("length", [4096, pytest.param(65536, marks=pytest.mark.slow)])
@pytest.mark.parametrize("backend", [name for name in NAMES if name in ("cpu", "chunked")])
def test_long_sequences_neither_overflow_nor_drift(backend, length):
    """Within twice the error of the sequential scan in float32; decays from slow to instant."""
    u, delta, _, B, C, D, *_ = inputs(1, 4, length, 2)
    A = torch.tensor([[-1e-4, -0.01], [-0.1, -1.0], [-16.0, -1.0], [-300.0, -1e-3]], dtype=F64)
    arguments = u, delta, A, B, C, D
    truth = selective_scan(*arguments, delta_softplus=True, backend="reference")
    single = [x.float() for x in arguments]
    sequential, ours = (selective_scan(*single, delta_softplus=True, backend=name) for name in ("reference", backend))
    assert torch.isfinite(ours).all()
    assert (ours - truth).abs().max() <= 2 * (sequential - truth).abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("backend", NAMES)
def test_other_dtypes(backend, dtype):
    """Arithmetic in float32 whatever comes in; results in the dtype of u, gradients in each tensor's own."""
    u, delta, A, B, C, D, z, bias, h0 = (x.to(dtype) for x in inputs(2, 4, 33, 3, 2))
    A, D, bias, h0 = (x.float() for x in (A, D, bias, h0))
    given = [x.requires_grad_() for x in (u, delta, A, B, C, D, z, bias)]
    out, last = selective_scan(*given, True, True, h0, backend)
    assert out.dtype == dtype and last.dtype == torch.float32
    expected, expected_last = by_loops(*(x.detach().double() for x in given), True, h0.double())
    torch.testing.assert_close(out.double(), expected, rtol=2 * torch.finfo(dtype).eps, atol=2e-5)
    torch.testing.assert_close(last.double(), expected_last, rtol=1e-4, atol=2e-5)
    out.float().pow(2).sum().backward()
    assert all(x.grad.dtype == x.dtype and torch.isfinite(x.grad).all() for x in given)


def test_autocast_changes_nothing():
    u, delta, A, B, C, D, *_ = inputs(2, 4, 20, 3, dtype=torch.float32)
    for backend in NAMES:
        expected = selective_scan(u, delta, A, B, C, D, backend=backend)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(selective_scan(u, delta, A, B, C, D, backend=backend), expected)


def permutations(count, length, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(length, generator=generator) for _ in range(count)])


def of_routes(batch, length, maps, per_map, channels, states, dtype=F64, seed=0):
    """u, routes, delta, A, B, C, D, delta_bias."""
    generator = torch.Generator().manual_seed(seed)
    count = maps * per_map

    def random(*shape):
        return torch.randn(*shape, generator=generator, dtype=F64).to(dtype)

    A = -torch.rand(count, channels, states, generator=generator, dtype=F64).to(dtype) * 2
    return (
        random(batch, length, maps, channels), permutations(count, length), random(batch, length, count, channels), A,
        random(batch, length, count, states), random(batch, length, count, states), random(count, channels),
        random(count, channels),
    )  # fmt: skip


@pytest.mark.parametrize("backend", NAMES)
@settings(max_examples=30, deadline=None)
@given(
    batch=st.integers(0, 2),
    length=st.integers(1, 20),
    maps=st.integers(1, 3),
    per_map=st.integers(1, 3),
    channels=st.integers(1, 3),
    states=st.sampled_from([1, 3]),
    cut=st.sampled_from([(1 << 22, 16), (1, 1), (1, 3)]),
)
def test_routes_are_scans_of_permuted_maps(backend, batch, length, maps, per_map, channels, states, cut):
    u, routes, delta, A, B, C, D, bias = of_routes(batch, length, maps, per_map, channels, states)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "STATES_OF_A_BLOCK", {"cpu": cut[0]})
        patch.setattr(chunked, "FEWEST_STEPS", cut[1])
        out = scan_routes(u, routes, delta, A, B, C, D, bias, True, backend)
    expected = torch.full_like(out, float("nan"))
    for r, route in enumerate(routes.tolist()):
        given = (
            torch.stack([x[:, at] for at in route], dim=-1)
            for x in (u[:, :, r // per_map], delta[:, :, r], B[:, :, r], C[:, :, r])
        )
        x, dt, b, c = given
        y, _ = by_loops(x, dt, A[r], b, c, D[r], None, bias[r], True)
        for place, at in enumerate(route):
            expected[:, at, r] = y[:, :, place]
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", NAMES)
def test_gradients_of_routes(backend, short_blocks):
    u, routes, *others = (x.requires_grad_() if x.is_floating_point() else x for x in of_routes(2, 10, 2, 2, 2, 2))
    assert torch.autograd.gradcheck(lambda u, *x: scan_routes(u, routes, *x, True, backend), (u, *others))


def test_registered_as_an_operator(short_blocks):
    u, routes, delta, A, B, C, *_ = of_routes(2, 10, 2, 2, 2, 2, dtype=torch.float32)
    start = torch.randn(2, 4, 2, 2)
    tensors = [x.requires_grad_() for x in (u, delta.abs().detach(), A, B, C)]
    for order, state in ((routes, start.requires_grad_()), (None, None)):
        if order is None:
            tensors[0] = torch.randn(2, 10, 4, 2, requires_grad=True)
        torch.library.opcheck(torch.ops.bestiary.selective_scan_chunked.default, (*tensors, order, state))


def test_compiles_and_exports_without_a_graph_break():
    u, delta, A, B, C, D, z, bias, _ = inputs(2, 4, 50, 3, 2, dtype=torch.float32)
    given = of_routes(2, 30, 2, 2, 3, 2, dtype=torch.float32)

    class Both(torch.nn.Module):
        def forward(self, u, delta, A, B, C, D, z, bias):
            scanned = selective_scan(u, delta, A, B, C, D, z, bias, True)
            return scanned, scan_routes(*given, True)

    arguments = u.requires_grad_(), delta, A.requires_grad_(), B, C, D, z, bias
    expected = Both()(*arguments)
    wanted = torch.autograd.grad(expected[0].pow(2).sum(), (u, A))
    compiled = torch.compile(Both(), fullgraph=True, backend="aot_eager")(*arguments)
    for one, other in zip(compiled, expected, strict=True):
        torch.testing.assert_close(one, other)
    for one, other in zip(torch.autograd.grad(compiled[0].pow(2).sum(), (u, A)), wanted, strict=True):
        torch.testing.assert_close(one, other)
    exported = torch.export.export(Both(), arguments).module()(*arguments)
    for one, other in zip(exported, expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.compiler.reset()


def test_shapes_alone():
    u, delta, A, B, C, *_ = (x.to("meta") for x in inputs(2, 4, 50, 3, 2))
    out, last = selective_scan(u, delta, A, B, C, return_last_state=True)
    assert out.shape == (2, 4, 50) and last.shape == (2, 4, 3) and out.is_meta


def test_backends_by_name():
    names = [line.name for line in backends("selective_scan")]
    assert names == ["cpu", "triton", "mamba_ssm", "chunked", "torch_scan", "reference"]
    assert all(line.usable for line in backends("scan_routes") if line.name in NAMES)
    u, delta, A, B, C, *_ = inputs(1, 2, 5, 2)
    constant = torch.randn(2, 2, dtype=F64)
    for backend in ("cpu", "chunked"):
        with use_backend(backend, "selective_scan"):
            selective_scan(u, delta, A, B, C)
            with pytest.raises(InputError, match="cannot serve this call: it takes a B and a C for each step"):
                selective_scan(u, delta, A, constant, C)
    with pytest.raises(
        InputError, match="selective_scan: no backend 'cuda'; there are cpu, triton, .*chunked, .*reference"
    ):
        selective_scan(u, delta, A, B, C, backend="cuda")


u, delta, A, B, C, D, z, bias, h0 = inputs(2, 6, 9, 3, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(u=u[0]), "u must be (B, D, L), batch, channels and steps, got 2 axes: (6, 9)"),
        (dict(A=A[1:]), "A must be (6, N), a row a channel of u, N at least 1, got (5, 3)"),
        (dict(A=A[:, :0]), "A must be (6, N), a row a channel of u, N at least 1, got (6, 0)"),
        (dict(delta=delta[..., 1:]), "delta must be (2, 6, 9) as u is, got (2, 6, 8)"),
        (dict(z=z[:1]), "z must be (2, 6, 9) as u is, got (1, 6, 9)"),
        (dict(D=D[1:]), "D must be (6,) an entry a channel, got (5,)"),
        (dict(delta_bias=bias[:, None]), "delta_bias must be (6,) an entry a channel, got (6, 1)"),
        (dict(initial_state=h0.mT), "initial_state must be (2, 6, 3) a state of A a channel, got (2, 3, 6)"),
        (dict(B=B.mT), "B must be (6, 3), (2, 3, 9) or (2, 'groups', 3, 9) for this u and A, got (2, 2, 9, 3)"),
        (dict(C=C[0, 0, 0]), "C must be (6, 3), (2, 3, 9) or (2, 'groups', 3, 9) for this u and A, got (9,)"),
        (dict(C=C.repeat(1, 2, 1, 1)), "the 6 channels of u must be a multiple of C's 4 groups"),
        (dict(C=C[:, :1].repeat(1, 3, 1, 1)), "B has 2 groups and C 3: give them one number"),
        (dict(u=u.long()), "u must be float16, bfloat16, float32 or float64, got torch.int64"),
        (dict(B=B.to(torch.complex64)), "B must be float16, bfloat16, float32 or float64, got torch.complex64"),
        (dict(D=D.to("meta")), "D is on meta, u on cpu: move them to one device"),
        (dict(A=A.to(torch.complex128), B=A), "B of shape (D, N) must be complex as A is, got torch.float64"),
        (dict(A=A.to(torch.complex128)), "B must be (6, 3), (2, 3, 18) or (2, 'groups', 3, 18) for this u and A"),
        (dict(A=A.to(torch.complex128), B=B.to(torch.complex128)), "B must be real, its last axis real and imaginary"),
    ],
)
def test_bad_input(changes, message):
    arguments = dict(u=u, delta=delta, A=A, B=B, C=C, D=D, z=z, delta_bias=bias, initial_state=h0) | changes
    with pytest.raises(InputError, match=re.escape(f"selective_scan: {message}")):
        selective_scan(**arguments)


def test_bad_routes():
    names = "u", "routes", "delta", "A", "B", "C", "D", "delta_bias"
    good = dict(zip(names, of_routes(2, 9, 2, 2, 3, 4), strict=True))
    assert scan_routes(**good).shape == (2, 9, 4, 3)
    for changes, message in (
        (dict(u=good["u"][0]), "u must be (B, L, G, D), batch, tokens, maps and channels, got (9, 2, 3)"),
        (dict(routes=good["routes"][:, 1:]), "routes must be an int64 table (R, 9), an order of u's tokens a row, got"),
        (dict(routes=good["routes"].int()), "an order of u's tokens a row, got torch.int32 (4, 9)"),
        (dict(routes=good["routes"].to("meta")), "routes is on meta, u on cpu: move them to one device"),
        (dict(routes=good["routes"][1:]), "the 3 routes must be a multiple of u's 2 maps"),
        (dict(A=good["A"][0]), "A must be (4, 3, N), of routes and channels, N at least 1, got (3, 4)"),
        (dict(delta=good["delta"][:, :, :2]), "delta must be (2, 9, 4, 3) for this u and these routes, got (2, 9, 2"),
        (dict(B=good["B"][..., 1:]), "B must be (2, 9, 4, 4) for this u, A and these routes, got (2, 9, 4, 3)"),
        (dict(D=good["D"][0]), "D must be (4, 3) of routes and channels, got (3,)"),
        (dict(C=good["C"].long()), "C must be float16, bfloat16, float32 or float64, got torch.int64"),
    ):
        with pytest.raises(InputError, match=re.escape(f"{message}")):
            scan_routes(**good | changes)
