"""Bi-level routed attention: each backend against loops over its definition, in float64."""

import pytest
import torch
import torch.autograd.forward_ad as forward_ad
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bestiary.errors import InputError
from bestiary.kernels import backends, bi_level_routing_attention, use_backend
from bestiary.kernels.bi_level_routing import Routing, gather, region_means, route
from bestiary.kernels.bi_level_routing.dispatch import BACKENDS

by_backend = pytest.mark.parametrize("backend", ["gather", "reference"])  # in float64; compiled: bi_level_routing/


def randn(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def qkv(batch=2, size=(6, 8), heads=2, channels=3, values=None, kv_size=None, seed=0, dtype=torch.float64):
    kv_size = kv_size or size
    q = randn(batch, *size, heads, channels, seed=seed, dtype=dtype)
    k = randn(batch, *kv_size, heads, channels, seed=seed + 1, dtype=dtype)
    v = randn(batch, *kv_size, heads, values or channels, seed=seed + 2, dtype=dtype)
    return q, k, v


def some_mask(batch, size, seed=7):
    """Half of the tokens, the first of all among them."""
    mask = torch.rand(batch, *size, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[:, 0, 0] = True
    return mask


def places(region, size, grid):
    """Tokens of a region, row by row."""
    h, w = size[0] // grid[0], size[1] // grid[1]
    row, column = divmod(region, grid[1])
    return [(row * h + i, column * w + j) for i in range(h) for j in range(w)]


def mean_of(x, tokens, mask):
    kept = [x[at].flatten() for at in tokens if mask is None or mask[at]]
    return torch.stack(kept).mean(0) if kept else None


def routed_by_loops(q, k, grid, topk, mask=None):
    """Chosen regions of each region of one picture, the best first; those without a token that counts come last."""
    regions, size = range(grid[0] * grid[1]), q.shape[:2]
    chosen = []
    for region in regions:
        mean = mean_of(q, places(region, size, grid), mask)
        scores = []
        for other in regions:
            key = mean_of(k, places(other, size, grid), mask)
            value = float("-inf") if key is None else 0.0 if mean is None else float((mean @ key).detach())
            scores.append((value, other))
        chosen.append([other for _, other in sorted(scores, key=lambda pair: -pair[0])[:topk]])
    return chosen


def attend_by_loops(q, k, v, grid, chosen, scale, lepe=None, mask=None, factors=None):
    """One picture: each token with the tokens of its region's regions, one by one."""
    size, kv_size = q.shape[:2], k.shape[:2]
    out = torch.zeros(*size, q.shape[2], v.shape[3], dtype=q.dtype)
    for region, others in enumerate(chosen):
        keys = [
            (at, 1.0 if factors is None else factors[region, place])
            for place, other in enumerate(others)
            for at in places(other, kv_size, grid)
            if mask is None or mask[at]
        ]
        for token in places(region, size, grid):
            for head in range(q.shape[2]):
                if keys:
                    scores = torch.stack([scale * factor * (q[token][head] @ k[at][head]) for at, factor in keys])
                    values = torch.stack([factor * v[at][head] for at, factor in keys])
                    out[token][head] = scores.softmax(0) @ values
    return out if lepe is None else out + lepe


def by_loops(q, k, v, grid, topk, scale, lepe=None, mask=None, routing=None):
    outs = []
    for i in range(len(q)):
        own = None if mask is None else mask[i]
        if routing is None:
            chosen, factors = routed_by_loops(q[i], k[i], grid, topk, own), None
        else:
            chosen = routing[0][i].tolist()
            factors = None if routing[1] is None else routing[1][i]
        outs.append(
            attend_by_loops(q[i], k[i], v[i], grid, chosen, scale, None if lepe is None else lepe[i], own, factors)
        )
    return torch.stack(outs)


@st.composite
def calls(draw):
    grid = draw(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    side = st.integers(1, 3)
    size = (grid[0] * draw(side), grid[1] * draw(side))
    given_routing = draw(st.booleans())
    kv_size = (grid[0] * draw(side), grid[1] * draw(side)) if given_routing else size
    return dict(
        batch=draw(st.integers(1, 2)),
        size=size,
        kv_size=kv_size,
        heads=draw(st.integers(1, 2)),
        channels=draw(st.integers(1, 3)),
        values=draw(st.integers(1, 3)),
        grid=grid,
        topk=draw(st.integers(1, grid[0] * grid[1])),
        scale=draw(st.sampled_from([0.3, 1.0, None])),
        given_routing=given_routing,
        soft=draw(st.booleans()),
        with_mask=draw(st.booleans()),
        with_lepe=draw(st.booleans()),
        backend=draw(st.sampled_from(["gather", "reference"])),
        elements=draw(st.sampled_from([1, 1 << 22])),  # regions one by one, and all at once
        seed=draw(st.integers(0, 1000)),
    )


@pytest.mark.parametrize("count", [60, pytest.param(600, marks=pytest.mark.slow)])
def test_any_call_is_its_definition(count):
    wide = settings(max_examples=count, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
    wide(given(calls())(is_its_definition))()


def is_its_definition(call):
    batch, seed, grid, topk = (call[name] for name in ("batch", "seed", "grid", "topk"))
    q, k, v = qkv(batch, call["size"], call["heads"], call["channels"], call["values"], call["kv_size"], seed)
    lepe = randn(batch, *call["size"], call["heads"], call["values"], seed=seed + 3) if call["with_lepe"] else None
    mask = some_mask(batch, call["kv_size"], seed) if call["with_mask"] else None
    routing = None
    if call["given_routing"]:
        regions = grid[0] * grid[1]
        index = torch.rand(batch, regions, regions, generator=torch.Generator().manual_seed(seed)).argsort(-1)
        weights = randn(*index[..., :topk].shape, seed=seed + 5) if call["soft"] else None
        routing = Routing(index[..., :topk], weights)
    learnt = [x for x in (q, k, v, lepe, routing and routing.weights) if x is not None]
    for x in learnt:
        x.requires_grad_()
    scale = (call["heads"] * call["channels"]) ** -0.5 if call["scale"] is None else call["scale"]
    expected = by_loops(q, k, v, grid, topk, scale, lepe, mask, routing)
    before, gather.GATHERED_ELEMENTS = gather.GATHERED_ELEMENTS, call["elements"]
    try:
        out = bi_level_routing_attention(q, k, v, grid, topk, call["scale"], lepe, mask, routing, call["backend"])
        upstream = randn(*out.shape, seed=seed + 4)
        if mask is not None and routing is None:  # a region of nothing but padding has no mean to choose by
            upstream, expected = (x * mask[..., None, None] for x in (upstream, expected))
            out = out * mask[..., None, None]
        found = torch.autograd.grad((out * upstream).sum(), learnt)
        with torch.no_grad():
            alone = bi_level_routing_attention(q, k, v, grid, topk, call["scale"], lepe, mask, routing, call["backend"])
            if mask is not None and routing is None:
                alone = alone * mask[..., None, None]
    finally:
        gather.GATHERED_ELEMENTS = before
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(alone, expected, rtol=1e-10, atol=1e-10)
    wanted = torch.autograd.grad((expected * upstream).sum(), learnt, allow_unused=True, materialize_grads=True)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-10)


@by_backend
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("records", [False, True])
def test_agrees_in_other_dtypes(backend, dtype, records):
    q, k, v = qkv(2, (14, 21), 4, 8, dtype=dtype)
    lepe = randn(*q.shape, seed=9, dtype=dtype)
    # The routing of the rounded means would be another's where two regions fit alike: it is given.
    routing = route(region_means(q.double().flatten(3), (7, 7)), region_means(k.double().flatten(3), (7, 7)), 5, 1.0)
    truth = bi_level_routing_attention(
        *(x.double() for x in (q, k, v)), 7, 5, None, lepe.double(), None, routing, "reference"
    )
    with torch.set_grad_enabled(records):
        q.requires_grad_(records)
        out = bi_level_routing_attention(q, k, v, 7, 5, None, lepe, None, routing, backend)
    assert out.dtype == dtype
    bound = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}[dtype]
    assert (out.double() - truth).abs().max() <= bound


def test_the_routing_is_the_means():
    q, k, _ = qkv(2, (6, 9), 2, 3)
    found = route(region_means(q.flatten(3), (3, 3)), region_means(k.flatten(3), (3, 3)), 4, 0.2, soft=True)
    for i in range(2):
        assert found.index[i].tolist() == routed_by_loops(q[i], k[i], (3, 3), 4)
        for region, others in enumerate(found.index[i].tolist()):
            mean = mean_of(q[i], places(region, (6, 9), (3, 3)), None)
            scores = [0.2 * mean @ mean_of(k[i], places(other, (6, 9), (3, 3)), None) for other in others]
            torch.testing.assert_close(found.weights[i, region], torch.stack(scores).softmax(0))


@by_backend
def test_the_choice_has_no_gradient_and_soft_weights_have(backend):
    q, k, v = (x.requires_grad_() for x in qkv(1, (4, 4), 1, 2))
    means = region_means(q.flatten(3), (2, 2)), region_means(k.flatten(3), (2, 2))
    hard = route(*(x.detach() for x in means), 2, 0.7)
    soft = route(*means, 2, 0.7, soft=True)
    given = torch.autograd.grad(bi_level_routing_attention(q, k, v, 2, 2, 0.7, routing=hard, backend=backend).sum(), q)
    chosen = torch.autograd.grad(bi_level_routing_attention(q, k, v, 2, 2, 0.7, backend=backend).sum(), q)
    assert torch.equal(given[0], chosen[0])
    loss = (bi_level_routing_attention(q, k, v, 2, 2, 0.7, routing=soft, backend=backend) ** 2).sum()
    fixed = Routing(soft.index, soft.weights.detach())
    without = (bi_level_routing_attention(q, k, v, 2, 2, 0.7, routing=fixed, backend=backend) ** 2).sum()
    torch.testing.assert_close(loss, without)
    assert not torch.allclose(*(torch.autograd.grad(x, q, retain_graph=True)[0] for x in (loss, without)))


@by_backend
@pytest.mark.parametrize("records", [False, True])
def test_nothing_under_the_mask_matters(backend, records):
    q, k, v = qkv(2, (6, 9), 2, 3)
    mask = some_mask(2, (6, 9))
    mask[1, :2] = False  # a whole row of regions
    mask[1, 0, 0] = False
    spoilt = [x.clone() for x in (q, k, v)]
    for x, fill in zip(spoilt, (1e3, float("nan"), float("inf")), strict=True):
        x[~mask] = fill
    for x in (q, spoilt[0]):
        x.requires_grad_(records)
    out = bi_level_routing_attention(q, k, v, 3, 4, 0.5, mask=mask, backend=backend)
    other = bi_level_routing_attention(*spoilt, 3, 4, 0.5, mask=mask, backend=backend)
    assert torch.equal(out[mask], other[mask]) and torch.isfinite(other[mask]).all()
    # All regions routed to each other: masked attention among all tokens that count.
    whole = bi_level_routing_attention(q, *spoilt[1:], 3, 9, 0.5, mask=mask, backend=backend)
    for i in range(2):
        keys, values = k[i][mask[i]], v[i][mask[i]]
        weights = (0.5 * torch.einsum("hwnd,knd->hwnk", q[i], keys)).softmax(-1)
        expected = torch.einsum("hwnk,knd->hwnd", weights, values)
        torch.testing.assert_close(whole[i], expected, rtol=1e-10, atol=1e-10)


@by_backend
@pytest.mark.parametrize("records", [False, True])
def test_a_picture_of_padding_gives_zeros(backend, records):
    q, k, v = (x.requires_grad_(records) for x in qkv(2, (4, 6), 2, 3))
    mask = torch.ones(2, 4, 6, dtype=torch.bool)
    mask[0] = False
    lepe = randn(*q.shape, seed=5)
    out = bi_level_routing_attention(q, k, v, 2, 3, 0.5, lepe, mask, backend=backend)
    assert torch.equal(out[0], lepe[0]) and not torch.equal(out[1], lepe[1])
    soft = route(region_means(q.flatten(3), (2, 2), mask), region_means(k.flatten(3), (2, 2), mask), 3, 1.0,
                 ~mask.any(-1).any(-1)[:, None].expand(-1, 4), soft=True)  # fmt: skip
    assert torch.isfinite(soft.weights).all()
    if records:
        grads = torch.autograd.grad(out.pow(2).sum(), (q, k, v))
        assert all(torch.isfinite(grad).all() and not grad[0].any() and grad[1].any() for grad in grads)


@by_backend
@pytest.mark.parametrize("elements", [1, 1 << 22])
def test_derivatives(backend, elements, monkeypatch):
    monkeypatch.setattr(gather, "GATHERED_ELEMENTS", elements)
    q, k, v = (x.requires_grad_() for x in qkv(1, (2, 4), 1, 2))
    mask = some_mask(1, (2, 4))
    index = torch.tensor([[[1, 0], [1, 0]]])
    weights = torch.tensor([[[0.4, 0.7], [0.9, 0.2]]], dtype=torch.float64, requires_grad=True)

    def run(q, k, v, weights):
        return bi_level_routing_attention(q, k, v, (1, 2), 2, 0.6, None, mask, (index, weights), backend)

    torch.autograd.gradcheck(run, (q, k, v, weights))
    torch.autograd.gradgradcheck(run, (q, k, v, weights))


def test_forward_mode_is_the_references():
    q, k, v = qkv(1, (2, 4), 1, 2)
    torch.autograd.gradcheck(
        lambda *x: bi_level_routing_attention(*x, (1, 2), 1, 0.6),
        tuple(x.requires_grad_() for x in (q, k, v)),
        check_forward_ad=True,
    )
    with forward_ad.dual_level(), pytest.raises(InputError, match="it has no forward-mode derivative"):
        dual = forward_ad.make_dual(q.detach(), torch.ones_like(q))
        bi_level_routing_attention(dual, k.detach(), v.detach(), (1, 2), 1, 0.6, backend="gather")


def test_packed_views_and_pictures_alone():
    packed = randn(3, 6, 8, 3, 2, 4)
    q, k, v = packed.unbind(3)
    out = bi_level_routing_attention(q, k, v, 2, 2, None)
    alone = bi_level_routing_attention(*(x[1:2].contiguous() for x in (q, k, v)), 2, 2, None)
    torch.testing.assert_close(out[1:2], alone)
    assert out.is_contiguous()
    empty = bi_level_routing_attention(q[:0], k[:0], v[:0], 2, 2, None)
    assert empty.shape == (0, 6, 8, 2, 4)
    with pytest.raises(InputError, match="it takes no empty batch"):
        bi_level_routing_attention(q[:0], k[:0], v[:0], 2, 2, None, backend="gather")


def test_all_regions_are_plain_attention():
    q, k, v = qkv(2, (6, 4), 2, 3)
    out = bi_level_routing_attention(q, k, v, 2, 4, 0.4)
    tokens = [x.flatten(1, 2).transpose(1, 2) for x in (q, k, v)]
    expected = torch.nn.functional.scaled_dot_product_attention(*tokens, scale=0.4).transpose(1, 2).view(q.shape)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)


@by_backend
def test_compiles_and_exports(backend):
    q, k, v = (x.requires_grad_() for x in qkv(2, (6, 8), 2, 4, dtype=torch.float32))
    mask = some_mask(2, (6, 8))

    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return bi_level_routing_attention(q, k, v, 2, 2, None, v, mask, backend=backend)

    layer = Layer()
    expected = layer(q, k, v)
    wanted = torch.autograd.grad(expected.pow(2).sum(), (q, k, v))
    found = torch.compile(layer, backend="aot_eager", fullgraph=True)(q, k, v)
    for one, other in zip(
        (found, *torch.autograd.grad(found.pow(2).sum(), (q, k, v))), (expected, *wanted), strict=True
    ):
        torch.testing.assert_close(one, other)
    exported = torch.export.export(layer, (q, k, v)).module()
    torch.testing.assert_close(exported(q, k, v), expected)
    torch.compiler.reset()


@by_backend
def test_exports_for_any_batch(backend):
    class Layer(torch.nn.Module):
        def forward(self, q, k, v):
            return bi_level_routing_attention(q, k, v, 2, 2, None, v, backend=backend)

    batch = torch.export.Dim("batch", min=1, max=64)
    shapes = dict.fromkeys("qkv", {0: batch})
    exported = torch.export.export(Layer(), qkv(2, (6, 8), 2, 4), dynamic_shapes=shapes).module()
    others = qkv(5, (6, 8), 2, 4, seed=3)
    torch.testing.assert_close(exported(*others), Layer()(*others))


@by_backend
def test_autocast(backend):
    q, k, v = qkv(2, (6, 8), 2, 4, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        out = bi_level_routing_attention(q, k, v, 2, 2, None, v, backend=backend)
        assert bi_level_routing_attention(*(x.double() for x in (q, k, v)), 2, 2, None).dtype == torch.float64
    assert out.dtype == torch.bfloat16
    low = [x.bfloat16() for x in (q, k, v, v)]
    assert torch.equal(out, bi_level_routing_attention(*low[:3], 2, 2, None, low[3], backend=backend))


def test_large_maps_are_not_kept_gathered(monkeypatch):
    """Of slices, only what goes in is kept for the backward pass."""
    q, k, v = (x.requires_grad_() for x in qkv(1, (16, 16), 2, 4))
    kept = {}
    for elements in (1 << 10, 1 << 22):
        monkeypatch.setattr(gather, "GATHERED_ELEMENTS", elements)
        sizes = []

        def pack(x, sizes=sizes):
            sizes.append(x.numel())
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = bi_level_routing_attention(q, k, v, 4, 8, None, backend="gather")
        kept[elements] = max(sizes), torch.autograd.grad(out.pow(2).sum(), (q, k, v))
    assert kept[1 << 22][0] >= 8 * k.numel() > 2 * k.numel() >= kept[1 << 10][0]
    for one, other in zip(kept[1 << 10][1], kept[1 << 22][1], strict=True):
        torch.testing.assert_close(one, other)


def test_the_list_and_the_choice(monkeypatch):
    lines = {line.name: line for line in backends("bi_level_routing_attention")}
    assert list(lines) == list(BACKENDS)
    assert lines["gather"].usable and lines["reference"].usable
    q, k, v = qkv(1, (4, 4), 1, 2)
    called = []
    for name, backend in BACKENDS.items():
        spy = backend._replace(run=lambda *x, name=name, run=backend.run: (called.append(name), run(*x))[1])
        monkeypatch.setitem(BACKENDS, name, spy)
    bi_level_routing_attention(q, k, v, 2, 1, None)
    with use_backend("reference"):
        bi_level_routing_attention(q, k, v, 2, 1, None)
    bi_level_routing_attention(q, k, v, 2, 1, None, backend="gather")
    bi_level_routing_attention(*(x.to("meta") for x in (q, k, v)), 2, 1, None)
    assert called == ["gather", "reference", "gather", "reference"]


def test_messages():
    q, k, v = qkv(2, (6, 8), 2, 3)
    lepe, mask = torch.ones_like(q), some_mask(2, (6, 8))
    index = torch.zeros(2, 4, 2, dtype=torch.int64)
    small = k[:, ::3, ::2]  # 2 x 4

    def call(q=q, k=k, v=v, n_win=2, topk=2, scale=None, **more):
        return bi_level_routing_attention(q, k, v, n_win, topk, scale, **more)

    for arguments, message in (
        (dict(q=q[0]), r"q must be \(B, H, W, heads, D\), got 4 axes"),
        (dict(k=k[:1]), r"k must be \(2, 'any', 'any', 2, 3\) as q is, got \(1, 6, 8, 2, 3\)"),
        (dict(k=k[..., :1, :]), r"k must be \(2, 'any', 'any', 2, 3\) as q is, got \(2, 6, 8, 1, 3\)"),
        (dict(v=v[:, :4]), r"v must be \(2, 6, 8, 2, 'any'\) as k is, got \(2, 4, 8, 2, 3\)"),
        (dict(v=v[..., :0]), "heads need at least one channel, q has 3 and v 0"),
        (dict(q=q.int(), k=k.int(), v=v.int()), "q must be float16, .*, got torch.int32"),
        (dict(k=k.float()), "k is torch.float32, q torch.float64: cast them to one dtype"),
        (dict(v=v.to("meta")), "v is on meta, q on cpu: move them to one device"),
        (dict(lepe=lepe[:, :3]), r"lepe must be \(2, 6, 8, 2, 3\), the output's shape, got \(2, 3, 8, 2, 3\)"),
        (dict(n_win=0), "n_win must be a number of regions a side, .* of 1 up, got 0"),
        (dict(n_win=(2, 2, 2)), "n_win must be a number of regions a side"),
        (dict(n_win=True), "n_win must be a number of regions a side, .* got True"),
        (dict(n_win=4), "q's 6 rows do not divide into 4 regions: pad the map to a multiple of n_win"),
        (dict(n_win=(3, 5)), "q's 8 columns do not divide into 5 regions"),
        (dict(k=small[:, :1], v=small[:, :1], routing=index), "k's 1 rows do not divide into 2 regions"),
        (dict(topk=5), "topk must be from 1 to the number of regions, 2 x 2 = 4, got 5"),
        (dict(topk=0), "topk must be from 1 to the number of regions, .* got 0"),
        (dict(topk=1.5), "topk must be from 1 to the number of regions, .* got 1.5"),
        (dict(scale=torch.ones(())), "scale must be a number, got a tensor: multiply q by it"),
        (dict(scale=float("nan")), "scale must be finite, got nan"),
        (dict(mask=mask[:1]), r"mask must be bool \(2, 6, 8\), .* got torch.bool \(1, 6, 8\)"),
        (dict(mask=mask.float()), r"mask must be bool \(2, 6, 8\), .* got torch.float32"),
        (dict(mask=mask.to("meta")), "mask is on meta, q on cpu"),
        (
            dict(k=small, v=small, mask=some_mask(2, (2, 4))),
            r"mask is of the keys' map \(2, 4\), and the queries' is \(6, 8\): there the routing has to be given",
        ),
        (dict(routing=index[:, :3]), r"routing must be int64 \(B, regions, topk\) = \(2, 4, 2\), .* \(2, 3, 2\)"),
        (dict(routing=index.int()), "routing must be int64 .* got torch.int32"),
        (dict(routing=index + 3, topk=2), None),
        (dict(routing=index + 4), "routing must hold numbers of regions, 0 to 3, got 4 to 4"),
        (dict(routing=index - 1), "routing must hold numbers of regions, 0 to 3, got -1 to -1"),
        (dict(routing=index.to("meta")), "routing is on meta, q on cpu"),
        (
            dict(routing="soft"),
            "routing must be a tensor of regions, or a pair of it and its weights, got <class 'str'>",
        ),
        (dict(routing=(index, index)), "the weights of routing must be floating .* got torch.int64"),
        (
            dict(routing=(index, torch.ones(2, 4, 1))),
            r"the weights of routing must be floating .* got torch.float32 \(2, 4, 1",
        ),
        (dict(backend="quick"), f"no backend 'quick'; there are {', '.join(BACKENDS)}"),
    ):
        if message is None:
            call(**arguments)
            continue
        with pytest.raises(InputError, match=message):
            call(**arguments)


@pytest.mark.parametrize(("grid", "size"), [((1, 1), (2, 3)), ((1, 1), (6, 9)), ((2, 3), (2, 3))])
def test_maps_of_one_token_a_region_and_of_one_region(grid, size):
    q, k, v = qkv(1, size, 1, 2)
    for topk in {1, grid[0] * grid[1]}:
        expected = by_loops(q, k, v, grid, topk, 1.0)
        torch.testing.assert_close(bi_level_routing_attention(q, k, v, grid, topk, 1.0), expected)
