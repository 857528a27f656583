"""FlexAttention, NATTEN and scaled_dot_product_attention as backends: judged by the float64 reference."""

import math
import os
import random
import subprocess
import sys
import types
import warnings

import pytest
import torch
from shares import one_day_in

from bestiary.errors import InputError
from bestiary.kernels import backends, neighborhood_attention, use_backend
from bestiary.kernels.neighborhood_attention import dispatch, flex, natten, sdpa
from bestiary.kernels.neighborhood_attention.arguments import Call
from bestiary.kernels.neighborhood_attention.dispatch import BACKENDS
from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.windows import Window, axis_keys


def inputs(spatial, kernel_size, heads=4, kv_heads=2, channels=8, value_channels=8, extra=None, bias=False, **kinds):
    generator = torch.Generator().manual_seed(1)

    def tensor(*shape):
        return torch.randn(*shape, generator=generator).to(**kinds)

    batch = 2
    q = tensor(batch, *spatial, heads, channels)
    k, v = (tensor(batch, *spatial, kv_heads, width) for width in (channels, value_channels))
    table = tensor(heads, *(2 * size - 1 for size in kernel_size)) if bias else None
    extra_k = None if extra is None else tensor(batch, extra, kv_heads, channels)
    extra_v = None if extra is None else tensor(batch, extra, kv_heads, value_channels)
    return q, k, v, table, extra_k, extra_v


def truth(tensors, window, scale):
    return neighborhood_attention_reference(*(None if t is None else t.double() for t in tensors), window, scale)


def plain_error(tensors, window, scale, wanted):
    """What plain PyTorch errs by in the dtype of the tensors: the bound is twice that."""
    out, lse = neighborhood_attention_reference(*tensors, window, scale)
    return (out - wanted[0]).abs().max() + 1e-6, (lse - wanted[1]).abs().max() + 1e-6


def a_call(**changes):
    """A call that every adapter on CPUs can serve."""
    fields = dict(
        device=torch.device("cpu"), dtype=torch.float32, batch=1, spatial=(7, 7), heads=2, kv_heads=2, channels=16,
        value_channels=16, additional=None, has_bias=False, window=Window((7, 7), (1, 1), (1, 1), (False, False)),
        needs_grad=False, wants_lse=False, forward_mode=False,
    )  # fmt: skip
    return Call(**fields | changes)


CASES = {  # spatial, window, the rest of `inputs`
    "odd map, stride, dilation, bias": ((9, 11), Window((3, 4), (1, 2), (2, 1), (False, False)), dict(bias=True)),
    "one causal axis": ((9, 11), Window((3, 4), (2, 2), (2, 1), (False, True)), dict()),
    "sequence, additional tokens": ((37,), Window((5,), (2,), (3,), (True,)), dict(extra=3)),
    "volume, bias, additional tokens": (
        (4, 5, 6),
        Window((2, 5, 3), (2, 2, 1), (1, 1, 2), (False,) * 3),
        dict(extra=2, bias=True),
    ),
    "whole map": ((7, 7), Window((7, 7), (1, 1), (1, 1), (False, False)), dict()),
    "whole map, additional tokens": ((3, 5), Window((3, 5), (1, 2), (1, 1), (False, False)), dict(extra=1)),
    "causal sequence": ((9,), Window((9,), (4,), (1,), (True,)), dict()),
    "kernel of one token": ((5, 1), Window((1, 1), (1, 1), (2, 1), (False, True)), dict()),
    "odd widths": ((6, 8), Window((3, 3), (1, 1), (1, 2), (False, False)), dict(channels=5, value_channels=12)),
}


def names_of(cases):
    return dict(argvalues=list(cases.values()), ids=list(cases))


@pytest.fixture
def eager_flex(monkeypatch):
    """FlexAttention without compiling anything."""
    import torch.nn.attention.flex_attention as module

    monkeypatch.setattr(module, "_FLEX_ATTENTION_DISABLE_COMPILE_DEBUG", True)


@pytest.mark.parametrize("block_size", [16, 128])
@pytest.mark.parametrize(("spatial", "window", "more"), **names_of(CASES))
def test_flex_agrees_with_the_reference(eager_flex, spatial, window, more, block_size):
    tensors = inputs(spatial, window.kernel_size, **more)
    wanted = truth(tensors, window, 0.3)
    bounds = plain_error(tensors, window, 0.3, wanted)
    got = flex.run(*tensors, window, 0.3, return_lse=True, block_size=block_size, compiled=False)
    for ours, exact, bound in zip(got, wanted, bounds, strict=True):
        assert ours.shape == exact.shape and ours.is_contiguous()
        assert (ours - exact).abs().max() <= 2 * bound
    assert flex.run(*tensors, window, 0.3, compiled=False)[1] is None


def compiled_agrees(dtype, spatial, window, more):
    tensors = inputs(spatial, window.kernel_size, **more, dtype=dtype)
    wanted = truth(tensors, window, 0.3)
    with torch.no_grad():  # FlexAttention looks at requires_grad alone; the adapter must not
        q = tensors[0].requires_grad_()
        ours = neighborhood_attention(
            q, *tensors[1:3], *window[:1], window.dilation, window.stride, window.is_causal, tensors[3], 0.3,
            *tensors[4:], backend="flex",
        )  # fmt: skip
    assert ours.dtype == dtype
    assert (ours - wanted[0]).abs().max() <= 2 * plain_error(tensors, window, 0.3, wanted)[0]


@one_day_in(4, 4)
def test_compiled_flex_agrees_with_the_reference():
    if reason := BACKENDS["flex"].why_not(a_call()):
        pytest.skip(reason)
    compiled_agrees(torch.float32, *CASES["volume, bias, additional tokens"])


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize(("spatial", "window", "more"), **names_of(CASES))
def test_compiled_flex_agrees_with_the_reference_everywhere(spatial, window, more, dtype):
    compiled_agrees(dtype, spatial, window, more)


@pytest.mark.slow
@torch._dynamo.config.patch(recompile_limit=2)  # monkeypatch would delete it afterwards, for all later tests
def test_compiled_flex_stays_compiled_for_more_kinds_of_calls_than_dynamo_allows_one_function():
    """dynamo gives a function up after 8 kinds and runs it uncompiled from then on, which warns."""
    for length in range(20, 25):
        tensors = inputs((length,), (3,), heads=1, kv_heads=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            flex.run(*tensors, Window((3,), (1,), (1,), (False,)), 1.0)


def random_map(seed):
    rng = random.Random(seed)
    axes = rng.choice([1, 2, 3])
    k, d = (tuple(rng.randint(1, top) for _ in range(axes)) for top in (5, 3))
    s = tuple(rng.randint(1, size) for size in k)
    spatial = tuple(a * b + rng.randint(0, 4) for a, b in zip(k, d, strict=True))
    causal = tuple(rng.random() < 0.3 for _ in range(axes))
    return flex.Map(spatial, Window(k, s, d, causal), rng.choice([0, 0, 1, 3]), torch.device("cpu"))


def seen_by_index(shape):
    """Tokens x (tokens + additional), from the reference's lists of keys."""
    whole = torch.ones(1, 1, dtype=torch.bool)
    for length, *axis in zip(shape.spatial, *shape.window, strict=True):
        keys = axis_keys(length, *axis)
        part = torch.zeros(length, length, dtype=torch.bool)
        part[torch.arange(length)[:, None].expand_as(keys.index)[keys.seen], keys.index[keys.seen]] = True
        whole = torch.kron(whole.int(), part.int()).bool()
    return torch.cat([whole, torch.ones(shape.tokens, shape.additional, dtype=torch.bool)], dim=1)


@pytest.mark.parametrize("seed", range(40))
def test_masks_and_blocks_of_flex_are_the_index_rule(seed):
    from torch.nn.attention.flex_attention import create_block_mask

    shape = random_map(seed)
    wanted = seen_by_index(shape)
    i, j = torch.arange(shape.tokens)[:, None], torch.arange(shape.tokens + shape.additional)[None]
    assert torch.equal(flex.mask_function(shape)(None, None, i, j).expand_as(wanted), wanted)
    block = 8
    theirs = create_block_mask(flex.mask_function(shape), None, None, *wanted.shape, device="cpu", BLOCK_SIZE=block)
    ours = flex.block_mask(shape, block)
    assert ours.shape == theirs.shape and torch.equal(ours.to_dense(), theirs.to_dense())
    assert torch.equal(ours.full_kv_num_blocks, theirs.full_kv_num_blocks)
    for row, count in enumerate(ours.full_kv_num_blocks[0, 0]):
        assert set(ours.full_kv_indices[0, 0, row, :count]) == set(theirs.full_kv_indices[0, 0, row, :count])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["whole map", "whole map, additional tokens", "causal sequence"])
def test_sdpa_agrees_with_the_reference(name, dtype):
    spatial, window, more = CASES[name]
    leaves = [None if t is None else t.requires_grad_() for t in inputs(spatial, window.kernel_size, **more)]
    tensors = [None if t is None else t.to(dtype) for t in leaves]
    out = neighborhood_attention(
        *tensors[:3], *window[:1], window.dilation, window.stride, window.is_causal, None, 0.3, *tensors[4:],
        backend="sdpa",
    )  # fmt: skip
    wanted = truth(tensors, window, 0.3)
    plain = neighborhood_attention_reference(*tensors, window, 0.3)
    kept = [t for t in leaves if t is not None]
    grads = [torch.autograd.grad(o.double().pow(3).sum(), kept) for o in (out, wanted[0], plain[0])]
    for ours, exact, usual in zip((out, *grads[0]), (wanted[0], *grads[1]), (plain[0], *grads[2]), strict=True):
        assert (ours - exact).abs().max() <= 2 * (usual - exact).abs().max() + 1e-6 * exact.abs().max().clamp(min=1)


def test_sdpa_takes_an_empty_batch():
    q = torch.randn(0, 3, 5, 4, 8)
    assert neighborhood_attention(q, q, q, (3, 5), backend="sdpa").shape == (0, 3, 5, 4, 8)


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")  # natten's use of FlexAttention
@pytest.mark.parametrize("scale", [0.3, 0.0])
@pytest.mark.parametrize(("spatial", "window", "more"), **names_of(CASES))
def test_natten_agrees_with_the_reference(eager_flex, spatial, window, more, scale):
    pytest.importorskip("natten")
    more = {key: value for key, value in more.items() if key != "bias"}
    tensors = inputs(spatial, window.kernel_size, **more)
    arguments = (*window[:1], window.dilation, window.stride, window.is_causal, None, scale, *tensors[4:])
    if min(window.kernel_size) < 2 or "channels" in more or spatial == (9,):
        with pytest.raises(InputError, match="backend 'natten' cannot serve this call: (it takes kernel|without libn)"):
            neighborhood_attention(*tensors[:3], *arguments, backend="natten")
        return
    wanted = truth(tensors, window, scale)
    bounds = plain_error(tensors, window, scale, wanted)
    with torch.no_grad():
        tensors[0].requires_grad_()
        got = neighborhood_attention(*tensors[:3], *arguments, return_lse=True, backend="natten")
    for ours, exact, bound in zip(got, wanted, bounds, strict=True):
        assert ours.is_contiguous() and (ours - exact).abs().max() <= 2 * bound


CUDA = torch.device("cuda", 0)
WHOLE_CAUSAL = Window((7, 7), (1, 1), (1, 1), (True, False))
REASONS = [
    (flex, dict(device=torch.device("meta")), "it takes CPU and CUDA tensors, these are on meta"),
    (flex, dict(dtype=torch.float64), "it takes float32, bfloat16 and float16, not torch.float64"),
    (flex, dict(batch=0), "it takes no empty batch and no zero heads"),
    (flex, dict(forward_mode=True), "it has no forward-mode derivative"),
    (flex, dict(needs_grad=True), "FlexAttention has no backward on CPUs"),
    (flex, dict(wants_lse=True), "compiled FlexAttention gives no LSE on CPUs"),
    (flex, dict(device=CUDA, channels=8), "it needs 16 channels a head on GPUs, got 8 and 16"),
    (natten, dict(device=torch.device("meta")), "it takes CPU and CUDA tensors, these are on meta"),
    (natten, dict(dtype=torch.float64), "it takes float32, bfloat16 and float16, not torch.float64"),
    (natten, dict(heads=0), "it takes no empty batch and no zero heads"),
    (natten, dict(has_bias=True), "NATTEN has no rel_pos_bias since 0.20"),
    (natten, dict(window=Window((7, 1), (1, 1), (1, 1), (False, False))), "kernel sizes from 2, got (7, 1)"),
    (natten, dict(additional=0), "it takes additional tokens, but not 0 of them"),
    (natten, dict(forward_mode=True), "it has no forward-mode derivative"),
    (natten, dict(needs_grad=True, wants_lse=True), "its backward drops the gradient of the LSE"),
    (
        natten,
        dict(needs_grad=True, additional=2, spatial=(9, 9)),
        "its backward with additional tokens overwrites what a second one through the same graph would need",
    ),
    (natten, dict(needs_grad=True), "FlexAttention alone, which has no backward on CPUs"),
    (natten, dict(value_channels=24), "takes values as wide as keys, got 16 and 24 channels"),
    (natten, dict(channels=24, value_channels=24), "takes powers of two from 8 to 512 as channels a head, got 24"),
    (
        natten,
        dict(spatial=(9,), window=Window((9,), (1,), (1,), (True,))),
        "takes no causal sequence with kernel_size equal to its length",
    ),
    (sdpa, dict(spatial=(7, 8)), "it takes windows that cover the whole map, or a causal sequence with kernel_size"),
    (sdpa, dict(window=WHOLE_CAUSAL), "it takes windows that cover the whole map, or a causal sequence"),
    (sdpa, dict(has_bias=True), "it would have to expand rel_pos_bias to a matrix of tokens by tokens"),
    (
        sdpa,
        dict(spatial=(9,), window=Window((9,), (1,), (1,), (True,)), additional=2),
        "it takes no additional tokens beside causal axes",
    ),
    (sdpa, dict(wants_lse=True), "it gives no LSE"),
    (sdpa, dict(forward_mode=True), "it has no forward-mode derivative"),
]


@pytest.mark.parametrize(("adapter", "changes", "reason"), REASONS)
def test_reasons(adapter, changes, reason):
    assert reason in (adapter.why_not(a_call(**changes)) or "")


@pytest.mark.parametrize("adapter", [flex, natten, sdpa])
def test_the_call_that_the_reasons_start_from_can_be_served(adapter):
    assert adapter.why_not(a_call()) is None


def test_flex_needs_a_compiler_on_cpus(monkeypatch):
    monkeypatch.setattr(flex.build, "compiler", lambda: None)
    assert flex.why_not(a_call()) == "there is no C++ compiler, which torch.compile needs on CPUs"


@pytest.fixture
def deterministic():
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_flex_on_gpus_in_deterministic_mode(deterministic):
    call = a_call(device=CUDA, has_bias=True, needs_grad=True)
    assert flex.why_not(call) == "its gradient of rel_pos_bias is not deterministic"
    assert flex.why_not(call._replace(has_bias=False)) is None


def with_libnatten(monkeypatch, architecture):
    monkeypatch.setattr(natten, "library_for", lambda kind: kind == "cuda")
    monkeypatch.setattr(natten, "_architecture", lambda index: architecture)


@pytest.mark.parametrize(
    ("architecture", "changes", "kernel"),
    [
        (100, dict(dtype=torch.bfloat16, channels=40, value_channels=40), "blackwell-fna"),
        (100, dict(dtype=torch.bfloat16, channels=136, value_channels=136), "cutlass-fna"),
        (90, dict(dtype=torch.float16, channels=32, value_channels=32), "hopper-fna"),
        (90, dict(dtype=torch.float16, channels=256, value_channels=256), "hopper-fna"),
        (90, dict(dtype=torch.float16, channels=256, value_channels=256, needs_grad=True), "cutlass-fna"),
        (90, dict(dtype=torch.float16, channels=32, value_channels=64), "cutlass-fna"),
        (90, dict(channels=32, value_channels=32), "cutlass-fna"),
        (80, dict(dtype=torch.bfloat16, channels=32, value_channels=32), "cutlass-fna"),
        (75, dict(dtype=torch.bfloat16, channels=32, value_channels=32), None),
        (90, dict(channels=20), None),
    ],
)
def test_kernels_of_libnatten(monkeypatch, architecture, changes, kernel):
    with_libnatten(monkeypatch, architecture)
    call = a_call(device=CUDA, **changes)
    assert natten.kernel(call) == kernel
    reason = natten.why_not(call)
    assert reason is None if kernel else f"on sm_{architecture}" in reason and "libnatten has no kernel" in reason


def test_libnatten_in_deterministic_mode(monkeypatch, deterministic):
    with_libnatten(monkeypatch, 90)
    call = a_call(device=CUDA, dtype=torch.bfloat16, channels=32, value_channels=32)
    assert natten.kernel(call) == "hopper-fna"  # its forward has no atomics
    assert natten.kernel(call._replace(needs_grad=True)) == "cutlass-fna"


@pytest.fixture
def forget_natten():
    natten.unavailable.cache_clear()
    yield
    natten.unavailable.cache_clear()


def missing(name):
    raise natten.importlib.metadata.PackageNotFoundError(name)


def broken(name):
    raise ImportError("libcudart.so.99: cannot open shared object file")


@pytest.mark.parametrize(
    ("version", "load", "reason"),
    [
        (missing, None, "NATTEN is not installed: pip install natten"),
        (lambda name: "0.17.5", None, "it needs NATTEN 0.21 or later, installed is 0.17.5"),
        (lambda name: "0.21.7+torch", broken, "NATTEN 0.21.7+torch cannot be imported: libcudart.so.99: cannot open"),
        (lambda name: "1.0", lambda name: types.ModuleType(name), None),
    ],
)
def test_installed_natten(monkeypatch, forget_natten, version, load, reason):
    monkeypatch.setattr(natten.importlib.metadata, "version", version)
    monkeypatch.setattr(natten.importlib, "import_module", load)
    found = natten.unavailable()
    assert found is None if reason is None else found.startswith(reason)


def test_adapters_are_listed_and_can_be_named():
    listed = {status.name: status for status in backends("neighborhood_attention", a_call(needs_grad=True))}
    assert {"natten", "flex", "sdpa", "reference"} <= set(listed)
    assert listed["flex"].reason == "FlexAttention has no backward on CPUs" and not listed["flex"].usable
    assert listed["sdpa"].usable and listed["reference"].usable
    q = torch.randn(1, 7, 2, 8, requires_grad=True)
    with pytest.raises(InputError, match="backend 'flex' cannot serve this call: FlexAttention has no backward"):
        neighborhood_attention(q, q, q, 3, backend="flex")
    with (
        use_backend("sdpa"),
        pytest.raises(InputError, match="backend 'sdpa' cannot serve this call: it takes windows"),
    ):
        neighborhood_attention(q, q, q, 3)


def test_adapters_are_refused_while_something_else_is_compiled():
    q = torch.randn(1, 7, 2, 8)

    def attend(name):
        return neighborhood_attention(q, q, q, 7, backend=name)

    for name, reason in (("flex", "it is compiled by itself"), ("natten", "it cannot be traced by torch.compile")):
        with pytest.raises(Exception, match=reason):
            torch.compile(attend, backend="eager", fullgraph=True)(name)
    out = torch.compile(attend, backend="eager", fullgraph=True)("sdpa")
    wanted = truth((q, q, q, None, None, None), Window((7,), (1,), (1,), (False,)), 8**-0.5)[0]
    assert (out - wanted).abs().max() < 1e-5


@pytest.mark.parametrize("kv_heads", [1, 4])
def test_sdpa_is_compiled_with_symbolic_sizes(kv_heads):
    compiled = torch.compile(
        lambda q, k: neighborhood_attention(q, k, k, (5, 3), backend="sdpa"),
        backend="eager", fullgraph=True, dynamic=True,
    )  # fmt: skip
    for batch in (2, 3, 5):
        q, k = torch.randn(batch, 5, 3, 4, 8), torch.randn(batch, 5, 3, kv_heads, 8)
        wanted = truth((q, k, k, None, None, None), Window((5, 3), (1, 1), (1, 1), (False, False)), 8**-0.5)[0]
        assert (compiled(q, k) - wanted).abs().max() < 1e-5


@pytest.mark.parametrize(
    ("changes", "order"),
    [
        (dict(spatial=(9, 9)), ("cuda", "triton", "flex", "reference")),
        (dict(), ("sdpa", "cuda", "triton", "flex", "reference")),
        (dict(needs_grad=True), ("cuda", "triton", "flex", "reference")),
        (dict(device=torch.device("cpu")), ("cpu", "reference")),
        (dict(device=torch.device("meta")), ("reference",)),
    ],
)
def test_the_rule_where_nothing_was_measured(monkeypatch, changes, order):
    monkeypatch.setattr(dispatch.tuning, "order", lambda operator, kind: ())
    monkeypatch.setattr(dispatch.tuning, "device_class", lambda kind, index: kind)
    call = a_call(**dict(device=CUDA) | changes)
    assert dispatch.rank(call) == order
    if call.device == CUDA:
        with_libnatten(monkeypatch, 90)
        i = order.index("flex")
        assert dispatch.rank(call) == (*order[:i], "natten", *order[i:])


def test_shapes_without_data():
    q = torch.empty(2, 7, 5, 3, 8, device="meta", dtype=torch.bfloat16)
    out, lse = neighborhood_attention(q, q, q, 3, return_lse=True)
    assert (out.shape, lse.shape, out.device.type, lse.dtype) == (q.shape, q.shape[:-1], "meta", torch.float32)


INTERPRETED = """
import torch
from bestiary.kernels import backends, neighborhood_attention
assert {s.name: s.usable for s in backends("neighborhood_attention")}["triton"]
torch.manual_seed(0)
tensors = [torch.randn(1, 5, 6, 2, 8).requires_grad_() for _ in range(3)] + [torch.randn(2, 5, 5).requires_grad_()]
results = []
for name in ("triton", "reference"):
    out, lse = neighborhood_attention(*tensors[:3], 3, (1, 2), rel_pos_bias=tensors[3], return_lse=True, backend=name)
    results.append((out, lse, *torch.autograd.grad(out.pow(3).sum() + lse.sin().sum(), tensors)))
for ours, wanted in zip(*results, strict=True):
    assert (ours - wanted).abs().max() < 1e-4 * wanted.abs().max()
"""


def test_triton_is_reached_by_the_public_operator():
    pytest.importorskip("triton")
    done = subprocess.run(
        [sys.executable, "-c", INTERPRETED],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("backend", ["flex", "natten", "sdpa"])
@pytest.mark.parametrize(("spatial", "window", "more"), **names_of(CASES))
def test_adapters_on_gpus(backend, spatial, window, more, dtype):
    more = dict(channels=16, value_channels=16) | more
    tensors = inputs(spatial, window.kernel_size, **more, dtype=dtype, device="cuda")
    tensors = [None if t is None else t.requires_grad_() for t in tensors]
    kept = [t for t in tensors if t is not None]
    arguments = (*window[:1], window.dilation, window.stride, window.is_causal, tensors[3], 0.3, *tensors[4:])
    shapes = dict(channels=more["channels"], value_channels=more["value_channels"], heads=4, kv_heads=2, batch=2)
    call = a_call(
        device=tensors[0].device, dtype=dtype, spatial=spatial, window=window, additional=more.get("extra"),
        has_bias=tensors[3] is not None, needs_grad=True, **shapes,
    )  # fmt: skip
    if reason := BACKENDS[backend].why_not(call) or BACKENDS[backend].unavailable():
        pytest.skip(reason)
    results = [
        neighborhood_attention(*tensors[:3], *arguments, backend=backend),
        truth(tensors, window, 0.3)[0],
        neighborhood_attention_reference(*tensors, window, 0.3)[0],
    ]
    grads = [torch.autograd.grad(out.double().pow(3).sum(), kept) for out in results]
    ours, exact, plain = ((out, *some) for out, some in zip(results, grads, strict=True))
    for o, e, p in zip(ours, exact, plain, strict=True):
        assert math.isfinite(o.abs().max()) and (o - e).abs().max() <= 2 * (p - e).abs().max() + 1e-5
