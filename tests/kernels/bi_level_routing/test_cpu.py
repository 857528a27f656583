"""The C++ backend of routed attention: against the reference in float64, and as an operator like PyTorch's own."""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from bestiary.errors import InputError
from bestiary.kernels import bi_level_routing_attention, use_backend
from bestiary.kernels.bi_level_routing import Routing, cpu
from bestiary.kernels.bi_level_routing.dispatch import BACKENDS

NAN = float("nan")
SHARE = int(os.environ.get("BESTIARY_TEST_SHARE") or 1)  # of the random cases only one in so many
# Largest deviation as a part of the largest value, or of 1 where that is less.
BOUNDS = {torch.float32: 1e-5, torch.float16: 3e-3, torch.bfloat16: 2e-2}
CASE = dict(
    batch=2, grid=(3, 2), side=(2, 3), kv_side=(2, 3), heads=2, channels=5, values=3, topk=3, dtype=torch.float32,
    mask=False, soft=False, lepe=False, twice=False, scale=0.4, packed=True, threads=1, seed=0,
)  # fmt: skip


@pytest.fixture(autouse=True)
def compiled():
    if reason := BACKENDS["cpu"].unavailable():
        pytest.skip(f"cpu: {reason}")


@pytest.fixture
def threads():
    """Sets the number of threads; what it was comes back."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


def make(**changes):
    """A case's q, k, v, lepe, weights of regions; mask and index; and an upstream gradient. Unit normal.

    What no query may look at is NaN: keys and values under the mask, and those of regions that nobody chose.
    """
    c = CASE | changes
    generator = torch.Generator().manual_seed(c["seed"])

    def randn(*shape):
        return torch.randn(*shape, generator=generator)

    regions = c["grid"][0] * c["grid"][1]
    size, kv_size = (tuple(n * m for n, m in zip(c["grid"], c[side], strict=True)) for side in ("side", "kv_side"))
    widths = c["channels"], c["values"]
    shape = c["batch"], *kv_size, c["heads"]
    index = torch.rand(c["batch"], regions, regions, generator=generator).argsort(-1)[..., : c["topk"]]
    if c["twice"]:
        index = index[..., torch.randint(0, c["topk"], (c["topk"],), generator=generator)]
    mask = torch.rand(c["batch"], *kv_size, generator=generator) < 0.6 if c["mask"] else None
    q = randn(c["batch"], *size, c["heads"], c["channels"])
    kv = randn(*shape, sum(widths)) if c["packed"] else randn(sum(widths), *shape).movedim(0, -1)
    chosen = torch.zeros(c["batch"], regions, dtype=torch.bool).scatter_(1, index.flatten(1), True)
    unseen = ~chosen.unflatten(1, c["grid"])
    for axis, length in enumerate(c["kv_side"], 1):
        unseen = unseen.repeat_interleave(length, axis)
    kv[unseen if mask is None else unseen | ~mask] = NAN
    k, v = kv.to(c["dtype"]).split(widths, -1)
    lepe = randn(*q.shape[:-1], c["values"]).to(c["dtype"]) if c["lepe"] else None
    weights = randn(*index.shape) if c["soft"] else None
    d_out = randn(*q.shape[:-1], c["values"]).to(c["dtype"])
    return [q.to(c["dtype"]), k, v, lepe, weights], mask, index, d_out, c


def results(learnt, mask, index, d_out, c, backend):
    """Output and gradients; the reference's in float64, of the same numbers."""
    wide = backend == "reference"
    learnt = [x if x is None else (x.double() if wide else x).detach().requires_grad_() for x in learnt]
    q, k, v, lepe, weights = learnt
    out = bi_level_routing_attention(
        q, k, v, c["grid"], c["topk"], c["scale"], lepe, mask, Routing(index, weights), backend
    )
    given = [x for x in learnt if x is not None]
    return out.detach(), *torch.autograd.grad(out, given, d_out.to(out.dtype))


def agree(found, wanted, bound):
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape and not one.isnan().any()
        largest = other.abs().max().item() if other.numel() else 0.0
        torch.testing.assert_close(one, other, rtol=0, atol=bound * max(1.0, largest), check_dtype=False)


@st.composite
def cases(draw):
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    side = st.integers(1, 5)
    small = st.integers(1, 3)
    sides = draw(st.tuples(side, side))
    return dict(
        batch=draw(st.integers(0, 2)),
        grid=grid,
        side=sides,
        kv_side=draw(st.one_of(st.just(sides), st.tuples(small, small))),
        heads=draw(st.integers(1, 3)),
        channels=draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 32, 40]))),
        values=draw(st.one_of(st.integers(1, 9), st.sampled_from([16, 32, 40]))),
        topk=draw(st.integers(1, grid[0] * grid[1])),
        dtype=draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16])),
        scale=draw(st.sampled_from([0.3, -0.2, 0.0])),
        seed=draw(st.integers(0, 10000)),
        **{name: draw(st.booleans()) for name in ("mask", "soft", "lepe", "twice", "packed")},
    )


@pytest.mark.parametrize("count", [500, pytest.param(5000, marks=pytest.mark.slow)])
def test_any_case_is_the_references(count, poisoned):
    def check(case):
        made = make(**case)
        agree(results(*made, "cpu"), results(*made, "reference"), BOUNDS[case["dtype"]])

    wide = settings(
        max_examples=count // SHARE, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    wide(given(cases())(check))()


# Work for several threads: 441 queries and as many keys; more threads than heads take the other order of the backward.
@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(mask=True, soft=True, lepe=True, twice=True),
        dict(twice=True, heads=3, topk=4),
        dict(soft=True, kv_side=(3, 2), channels=32, values=16, batch=2),
        dict(dtype=torch.bfloat16, mask=True, channels=32, values=32, topk=2),
        dict(grid=(1, 1), side=(21, 21), kv_side=(41, 21), topk=1, channels=32, values=32),  # keys that are not packed
        dict(topk=1, channels=32, values=32, soft=True, twice=True),
    ],
    ids=str,
)
def test_the_bits_do_not_hang_on_the_threads(changes, threads):
    case = dict(batch=1, grid=(3, 3), side=(7, 7), kv_side=(7, 7), heads=1, topk=9, channels=16, values=8) | changes
    made = make(**case)
    wanted = results(*made, "reference")
    first = None
    for count in 1, 2, 5, 1, 2, 5:
        threads(count)
        found = results(*made, "cpu")
        agree(found, wanted, BOUNDS[made[-1]["dtype"]])
        first = found if first is None else first
        assert all(torch.equal(one, other) for one, other in zip(first, found, strict=True)), count


def test_a_map_too_large_to_be_packed(threads):
    """Keys and values of a head take more than what is packed at once: they are read in place."""
    for soft in False, True:
        made = make(batch=1, grid=(2, 2), side=(2, 3), kv_side=(127, 130), heads=1, channels=32, values=32, topk=2,
                    soft=soft, twice=soft)  # fmt: skip
        wanted = results(*made, "reference")
        for count in 1, 2:
            threads(count)
            agree(results(*made, "cpu"), wanted, 1e-4)  # sums of 33,020 terms


def test_large_scores_do_not_overflow():
    learnt, *rest = make(scale=30.0)
    found, wanted = results(learnt, *rest, "cpu"), results(learnt, *rest, "reference")
    agree(found, wanted, 1e-4)


def test_lse():
    (q, k, v, lepe, weights), _, index, _, c = make(grid=(1, 1), topk=1, lepe=True, soft=True)
    mask = torch.ones(*k.shape[:3], dtype=torch.bool)
    mask[0, 0, 0] = mask[1] = False
    out, lse = torch.ops.bestiary.bi_level_routing_forward(q, k, v, lepe, mask, index, weights, c["grid"], 0.4)
    scores = torch.einsum("hwnd,knd->hwnk", q[0] * 0.4 * weights[0, 0, 0], k[0][mask[0]])
    torch.testing.assert_close(lse[0], scores.logsumexp(-1))
    assert torch.equal(out[1], lepe[1]) and not lse[1].any()


def test_why_not():
    double = torch.zeros(1, 2, 2, 1, 4, dtype=torch.float64)
    with pytest.raises(InputError, match="backend 'cpu' cannot serve this call: it takes float32, .*, not float64"):
        bi_level_routing_attention(double, double, double, 1, 1, None, backend="cpu")
    meta = torch.zeros(1, 2, 2, 1, 4, device="meta")
    with pytest.raises(InputError, match="it takes CPU tensors, these are on meta"):
        bi_level_routing_attention(meta, meta, meta, 1, 1, None, backend="cpu")
    assert set(cpu.DTYPES) == set(BOUNDS)


def run(made, backend=None):
    (q, k, v, lepe, weights), mask, index, _, c = made
    routing = Routing(index, weights)
    return bi_level_routing_attention(q, k, v, c["grid"], c["topk"], c["scale"], lepe, mask, routing, backend)


def clean(**changes):
    """A case without NaNs, whose tensors want gradients."""
    learnt, *rest = make(**changes)
    learnt = [x if x is None else x.nan_to_num().contiguous().requires_grad_() for x in learnt]
    return learnt, *rest


def test_axes_of_any_stride():
    """Of channels too, and upstream gradients that are one number expanded."""
    learnt, mask, index, _, c = clean()
    turned = [x if x is None else x.detach().transpose(1, 4).contiguous().transpose(1, 4) for x in learnt]
    assert turned[0].stride(-1) != 1
    d_out = torch.ones(()).expand(learnt[0].shape[:-1] + (c["values"],))
    found = results(turned, mask, index, d_out, c, "cpu")
    agree(found, results(learnt, mask, index, d_out, c, "reference"), 1e-5)


@pytest.mark.parametrize("full", [True, False])
def test_registration(full):
    (q, k, v, lepe, weights), mask, index, d_out, c = clean(mask=full, soft=full, lepe=full)
    routing = mask, index, weights, list(c["grid"]), 0.4
    torch.library.opcheck(torch.ops.bestiary.bi_level_routing_forward, (q, k, v, lepe, *routing))
    q, k, v, lepe, weights = (x if x is None else x.detach() for x in (q, k, v, lepe, weights))
    routing = mask, index, weights, list(c["grid"]), 0.4
    _, lse = torch.ops.bestiary.bi_level_routing_forward(q, k, v, lepe, *routing)
    torch.library.opcheck(torch.ops.bestiary.bi_level_routing_backward, (d_out, q, k, v, lse, *routing))


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled_graphs(dynamic):
    torch.compiler.reset()
    targets = []

    def keep(graph, example):
        targets.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    for backend in keep, "aot_eager":
        layer = torch.compile(run, fullgraph=True, dynamic=dynamic, backend=backend)
        for side in (2, 3), (4, 5):
            made = clean(mask=True, soft=True, lepe=True, side=side)
            found, wanted = layer(made), run(made, "reference")
            agree((found.detach(),), (wanted.detach(),), 1e-5)
            seed = torch.randn_like(found)
            agree(*(torch.autograd.grad(x, made[0], seed) for x in (found, wanted)), 1e-5)
    assert any("bi_level_routing_forward" in target for target in targets)
    torch.compiler.reset()


def test_regions_that_are_not_there_inside_compiled_code():
    torch.compiler.reset()
    learnt, mask, index, d_out, c = clean()
    layer = torch.compile(run, fullgraph=True, backend="eager")
    with torch.no_grad(), pytest.raises(RuntimeError, match="routing must hold numbers of regions"):
        layer((learnt, mask, index + 6, d_out, c))
    torch.compiler.reset()


def test_export_for_any_batch():
    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return bi_level_routing_attention(q, k, v, (3, 2), 3, 0.4, v)

    tensors = [x.detach() for x in clean(values=5)[0][:3]]
    shapes = dict.fromkeys("qkv", {0: torch.export.Dim("batch", min=1, max=64)})
    program = torch.export.export(Layer(), tuple(tensors), dynamic_shapes=shapes)
    assert any("bi_level_routing_forward" in str(node.target) for node in program.graph.nodes)
    others = [x.detach() for x in clean(values=5, batch=5)[0][:3]]
    torch.testing.assert_close(program.module()(*others), Layer()(*others))


def test_autocast():
    learnt, mask, index, d_out, c = clean(soft=True, lepe=True)
    made = [x if i == 4 or x is None else x.detach().bfloat16() for i, x in enumerate(learnt)], mask, index, d_out, c
    with torch.autocast("cpu", torch.bfloat16):
        out = run((learnt, mask, index, d_out, c))
    assert out.dtype == torch.bfloat16 and torch.equal(out, run(made))
    assert all(grad.dtype == torch.float32 for grad in torch.autograd.grad(out.float().sum(), learnt))


def test_deterministic_mode_changes_nothing(poisoned):
    made = make(mask=True, soft=True)
    with_mode = results(*made, "cpu")
    torch.use_deterministic_algorithms(False)
    assert all(torch.equal(one, other) for one, other in zip(with_mode, results(*made, "cpu"), strict=True))


def test_second_derivatives():
    found = []
    for backend in "cpu", "reference":
        made = clean(mask=True, soft=True, lepe=True)
        grads = torch.autograd.grad(run(made, backend).pow(3).sum(), made[0], create_graph=True)
        found.append(torch.autograd.grad(sum(grad.pow(2).sum() for grad in grads), made[0]))
    agree(*found, 1e-4)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_function_transforms():
    learnt, *rest = clean(soft=True, lepe=True)
    learnt = tuple(x.detach() for x in learnt)

    def objective(*tensors, backend=None):
        return run((tensors, *rest), backend).pow(3).sum()

    places = tuple(range(5))
    wanted = torch.func.grad(lambda *x: objective(*x, backend="reference"), places)(*learnt)
    agree(torch.func.grad(objective, places)(*learnt), wanted, 1e-5)
    samples = [torch.stack([x, 0.5 * x]) for x in learnt]
    found = torch.vmap(torch.func.grad(objective, (0, 3)), (0, 0, None, 0, None))(
        samples[0], samples[1], learnt[2], samples[3], learnt[4]
    )
    agree([x[0] for x in found], [wanted[0], wanted[3]], 1e-5)


def test_operations_are_those_of_the_gathered_products():
    counts = []
    for backend in "cpu", "gather":
        made = clean(mask=True, lepe=True)
        with FlopCounterMode(display=False) as counter:
            run(made, backend).sum().backward()
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 0


def test_it_is_the_choice_on_cpus(monkeypatch):
    called = []
    for name, backend in BACKENDS.items():
        spy = backend._replace(run=lambda *x, name=name, run=backend.run: (called.append(name), run(*x))[1])
        monkeypatch.setitem(BACKENDS, name, spy)
    made = clean()
    run(made)
    with use_backend("gather"):
        run(made)
    assert called == ["cpu", "gather"]
