"""Every backend against the float64 reference: random calls by the thousand, and NaN wherever it must not look."""

import itertools
import math
import os
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bestiary.kernels import neighborhood_attention
from bestiary.kernels.neighborhood_attention.dispatch import BACKENDS
from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.windows import Window, axis_keys

CUDA = pytest.mark.gpu
OPERATORS = {"cpu": "na", "cuda": "na", "triton": "na_triton"}  # backends of ours that are compiled
# FlexAttention, NATTEN and SDPA serve a part of the calls, and compile for seconds: tests of their own.
EVERYWHERE = [
    pytest.param(name, marks=CUDA if name in ("cuda", "triton") else ())
    for name in BACKENDS
    if name in OPERATORS or name == "reference"
]
COMPILED = [parameter for parameter in EVERYWHERE if parameter.values[0] in OPERATORS]
SHARE = int(os.environ.get("BESTIARY_TEST_SHARE", "1"))  # one of so many random calls: for slower runs of this file
NAMES = "out", "lse", "d_query", "d_key", "d_value", "d_bias", "d_extra_keys", "d_extra_values"


class Case(NamedTuple):
    """A call. Letters as in reference.py."""

    spatial: tuple[int, ...]
    window: Window
    batch: int
    kv_heads: int
    ratio: int
    channels: int
    value_channels: int
    extra: int | None
    has_bias: bool
    layout: str
    scale: float
    size: float  # of the queries: large ones make one-sided softmaxes
    seed: int


LAYOUTS = ("contiguous", "packed", "heads first", "inside NaN")
WIDTHS = st.sampled_from((1, 2, 3, 4, 7, 8, 15, 16, 17, 24, 31, 32, 32, 33, 40, 64, 72))


@st.composite
def cases(draw) -> Case:
    """Small calls, most of them at an edge: windows as long as the axis, groups of unequal length, single tokens."""
    axes = draw(st.sampled_from((1, 2, 2, 3)))
    window, spatial, tokens = [], [], 1
    for _ in range(axes):
        k = draw(st.integers(1, (17, 7, 3)[axes - 1]))
        d = draw(st.sampled_from((1, 1, 2, 3, 5)[: 6 - axes]))
        room = (96, 260, 250)[axes - 1] // tokens
        if k * d > room:
            k, d = min(k, 3, room), 1
        beyond = draw(st.sampled_from((0, 1, d - 1, d, d * (k - 1), d * k + 1, 13, 18, 29, 40)))
        length = min(k * d + beyond, max(room, k * d))
        s = draw(st.sampled_from((1, 1, 1, k, (k + 1) // 2, max(1, k - 1))))
        window.append((k, s, d, draw(st.sampled_from((False, False, False, True)))))
        spatial.append(length)
        tokens *= length
    window = Window(*(tuple(entry) for entry in zip(*window, strict=True)))
    channels = draw(WIDTHS)
    return Case(
        tuple(spatial), window,
        batch=draw(st.sampled_from((1, 1, 2, 2, 3, 0))),
        kv_heads=draw(st.integers(1, 3)),
        ratio=draw(st.sampled_from((1, 1, 1, 2, 3))),
        channels=channels,
        value_channels=draw(st.sampled_from((channels, channels, None))) or draw(WIDTHS),
        extra=draw(st.sampled_from((None, None, 1, 3, 17, 0))),
        has_bias=not any(window.is_causal) and draw(st.booleans()),
        layout=draw(st.sampled_from(LAYOUTS)),
        scale=draw(st.sampled_from((channels**-0.5, channels**-0.5, 1.0, 0.0, -0.4))),
        size=draw(st.sampled_from((1.0, 1.0, 1.0, 8.0))),
        seed=draw(st.integers(0, 2**31)),
    )  # fmt: skip


class Tensors(NamedTuple):
    inputs: list[torch.Tensor | None]  # query, key, value, bias, additional keys, additional values
    d_out: torch.Tensor
    d_lse: torch.Tensor


def inside_nan(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, one element away from the start, with NaN before and after each of its rows and channels."""
    room = tensor.new_full([size + 2 for size in tensor.shape], float("nan"))
    view = room[(slice(1, -1),) * tensor.ndim]
    return view.copy_(tensor)


def heads_first(tensor: torch.Tensor) -> torch.Tensor:
    """The same values, where heads vary slower than tokens."""
    return tensor.movedim(-2, 1).contiguous().movedim(1, -2)


def make(case: Case, dtype: torch.dtype, device: str) -> Tensors:
    generator = torch.Generator().manual_seed(case.seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    heads = case.kv_heads * case.ratio
    rows, sizes = (case.batch, *case.spatial), (heads, case.kv_heads, case.kv_heads)
    widths = case.channels, case.channels, case.value_channels
    packed = normal(*rows, sum(n * width for n, width in zip(sizes, widths, strict=True))).to(device)
    packed[..., : heads * case.channels] *= case.size
    parts = packed.split([n * width for n, width in zip(sizes, widths, strict=True)], -1)
    inputs = [part.unflatten(-1, (n, width)) for part, n, width in zip(parts, sizes, widths, strict=True)]
    bias = normal(heads, *(2 * k - 1 for k in case.window.kernel_size)).float().to(device) if case.has_bias else None
    extra = [None, None]
    if case.extra is not None:
        extra = [normal(case.batch, case.extra, case.kv_heads, width).to(device) for width in widths[1:]]
    d_out, d_lse = normal(*rows, heads, case.value_channels).to(device), normal(*rows, heads).float().to(device)
    lay = {"contiguous": torch.Tensor.contiguous, "heads first": heads_first, "inside NaN": inside_nan}.get(case.layout)
    if lay is not None:
        inputs, d_out = [lay(t) for t in inputs], lay(d_out)
        extra = [None if t is None else lay(t) for t in extra]
    return Tensors([*inputs, bias, *extra], d_out, d_lse)


def results(run, tensors: Tensors, dtype: torch.dtype | None = None) -> dict[str, torch.Tensor]:
    """Output, LSE and all gradients of `run`, in float64; `dtype` casts everything but the bias first."""
    cast = {} if dtype is None else {"dtype": dtype}
    inputs = [None if t is None else t.detach().to(**cast).requires_grad_() for t in tensors.inputs]
    if dtype is not None and inputs[3] is not None:
        inputs[3] = tensors.inputs[3].to(torch.promote_types(dtype, torch.float32)).detach().requires_grad_()
    out, lse = run(*inputs)
    some = [t for t in inputs if t is not None]
    seeds = tensors.d_out.to(out.dtype), tensors.d_lse.to(lse.dtype)
    grads = iter(torch.autograd.grad([out, lse], some, seeds, allow_unused=True, materialize_grads=True))
    found = [out, lse, *(None if t is None else next(grads) for t in inputs)]
    return {name: t.double() for name, t in zip(NAMES, found, strict=True) if t is not None}


def device_of(backend: str) -> str:
    """Where `backend` runs; skips the test where it cannot."""
    if backend in ("cuda", "triton") and not torch.cuda.is_available():
        pytest.skip(f"{backend}: there is no CUDA device")
    if reason := BACKENDS[backend].unavailable():
        pytest.skip(f"{backend}: {reason}")
    return "cuda" if backend in ("cuda", "triton") else "cpu"


def judge(backend: str, case: Case, dtype: torch.dtype, device: str, dense) -> None:
    """Twice the error of plain PyTorch in this dtype, and a few of its roundings of the largest value."""
    tensors = make(case, dtype, device)

    def ours(query, key, value, bias, *extra):
        window = case.window._asdict()
        return neighborhood_attention(
            query, key, value, rel_pos_bias=bias, scale=case.scale, additional_keys=extra[0],
            additional_values=extra[1], return_lse=True, backend=backend, **window,
        )  # fmt: skip

    found = results(ours, tensors)
    truth = results(lambda *t: neighborhood_attention_reference(*t, case.window, case.scale), tensors, torch.float64)
    plain = results(lambda *t: dense(*t, case.window, case.scale), tensors)
    if dtype != torch.float32:  # the LSE is float32 whatever the dtype, and has to be as good as that
        plain["lse"] = results(lambda *t: dense(*t, case.window, case.scale), tensors, torch.float32)["lse"]
    assert found.keys() == truth.keys()
    # The weights are exp(score - LSE), both float32, each summed in its own order: off by roundings of the products
    # in a score, which plain softmax, where one number is subtracted from itself, is partly spared.
    lengths = [max([0.0, *t.detach().double().norm(dim=-1).flatten().tolist()]) for t in tensors.inputs[:2]]
    steep = torch.finfo(torch.float32).eps * (abs(case.scale) * lengths[0] * lengths[1] + 3.0 * case.has_bias)
    # Gradients of scores are differences of sums over the channels of d_out and values, and can be far smaller.
    query, key = (max([0.0, *t.abs().flatten().tolist()]) for t in tensors.inputs[:2])
    sums = case.value_channels**0.5 * abs(case.scale)
    parts = {"d_query": sums * key, "d_key": sums * query, "d_extra_keys": sums * query}
    # So are sums over all queries, which plain PyTorch takes in pairs.
    everyone = (math.prod(case.spatial) * case.ratio) ** 0.5
    parts |= {"d_extra_values": everyone, "d_bias": everyone * case.batch**0.5}
    for name, wanted in truth.items():
        assert found[name].shape == wanted.shape, f"{name}: {found[name].shape}"
        if wanted.numel():
            eps = 4 * torch.finfo(torch.float32 if name == "lse" else dtype).eps + steep
            error, usual = ((t - wanted).abs().max().item() for t in (found[name], plain[name]))
            bound = 2 * usual + eps * max(1.0, wanted.abs().max().item(), parts.get(name, 0.0))
            assert error <= bound, f"{name}: error {error:.3g}, plain PyTorch's {usual:.3g}, allowed {bound:.3g}"


MANY = [(torch.float32, 700), (torch.bfloat16, 350), (torch.float16, 250)]


@pytest.mark.parametrize(
    ("dtype", "count"),
    [(dtype, count // 3) for dtype, count in MANY] + [pytest.param(*case, marks=pytest.mark.slow) for case in MANY],
    ids=str,
)
@pytest.mark.parametrize("backend", EVERYWHERE)
def test_random_calls(backend, dtype, count, dense, poisoned):
    device = device_of(backend)

    @settings(
        max_examples=count // SHARE if backend in OPERATORS else count // 10,
        deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(cases())
    def calls(case):
        judge(backend, case, dtype, device, dense)

    calls()


NETWORKS = [  # map, dilation, heads, channels: the released networks' at 224, in detection, and isotropic
    ((28, 28), 1, 2, 32), ((28, 28), 4, 2, 32), ((14, 14), 2, 3, 32), ((7, 7), 1, 3, 32), ((25, 42), 3, 1, 32),
    ((14, 14), 1, 2, 64), ((56, 56), 8, 1, 32), ((24, 24), 3, 1, 32),
]  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("spatial", "dilation", "heads", "channels"), NETWORKS)
@pytest.mark.parametrize("backend", COMPILED)
def test_maps_of_networks(backend, spatial, dilation, heads, channels, dtype, dense, poisoned):
    device = device_of(backend)
    window = Window((7, 7), (1, 1), (dilation, dilation), (False, False))
    case = Case(spatial, window, 2, heads, 1, channels, channels, None, True, "packed", channels**-0.5, 1.0, 7)
    if math.prod(spatial) > 1000:  # all scores of these would be large
        case = case._replace(batch=1)
    judge(backend, case, dtype, device, dense)


SOLID = (False, False, False)
POISONED = [
    Case((9, 13), Window((5, 3), (1, 1), (1, 2), (False, False)), 1, 2, 1, 32, 32, 2, True, "packed", 0.2, 1.0, 1),
    Case((21, 30), Window((7, 7), (1, 1), (1, 1), (False, False)), 1, 1, 1, 32, 32, None, True, "packed", 0.2, 1.0, 2),
    Case((17, 19), Window((4, 6), (3, 2), (2, 1), (False, True)), 1, 2, 1, 17, 9, None, False, "packed", 0.2, 1.0, 3),
    Case((70,), Window((8,), (8,), (3,), (False,)), 2, 1, 2, 24, 24, None, False, "contiguous", 0.2, 1.0, 4),
    Case((45,), Window((9,), (1,), (1,), (True,)), 1, 2, 1, 64, 64, 1, False, "contiguous", 0.2, 1.0, 5),
    Case((5, 6, 9), Window((3, 2, 4), (1, 2, 1), (1, 1, 2), SOLID), 1, 1, 1, 8, 8, None, True, "packed", 0.2, 1.0, 6),
]  # fmt: skip


def sight(case: Case) -> torch.Tensor:
    """(N, N): does query i see key j?"""
    seen = torch.ones(1, 1, dtype=torch.bool)
    for length, *axis in zip(case.spatial, *case.window, strict=True):
        keys = axis_keys(length, *axis)
        table = torch.zeros(length, length, dtype=torch.bool)
        table[torch.arange(length)[:, None].expand_as(keys.index)[keys.seen], keys.index[keys.seen]] = True
        size = len(seen) * length
        seen = (seen[:, None, :, None] & table[None, :, None, :]).reshape(size, size)
    return seen


def tokens_to_try(case: Case) -> list[int]:
    """The corners of the map, what lies beside them, and some inside."""
    places = [sorted({0, 1 % n, n // 2, n // 2 + 1 if n > 2 else 0, max(0, n - 2), n - 1}) for n in case.spatial]
    numbers = [
        sum(p * math.prod(case.spatial[axis + 1 :]) for axis, p in enumerate(place))
        for place in itertools.product(*places)
    ]
    return numbers[:: max(1, len(numbers) // 24)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", POISONED, ids=lambda case: "x".join(map(str, case.spatial)))
@pytest.mark.parametrize("backend", COMPILED)
def test_a_query_reads_its_window_and_nothing_else(backend, case, dtype, poisoned):
    """NaN in all keys and values outside the window of one query: its output, LSE and gradient stay what they were."""
    device = device_of(backend)
    operator = OPERATORS[backend]
    forward = getattr(torch.ops.bestiary, f"{operator}_forward")
    backward = getattr(torch.ops.bestiary, f"{operator}_backward")
    (query, key, value, *optional), d_out, d_lse = make(case, dtype, device)
    rest = (*optional, *case.window, case.scale)
    clean_out, clean_lse = forward(query, key, value, *rest)
    clean_grads = backward(d_out, d_lse, query, key, value, clean_out, clean_lse, *rest)
    clean = [t.flatten(1, len(case.spatial)) for t in (clean_out, clean_lse, clean_grads[0])]
    seen = sight(case)
    for i in tokens_to_try(case):
        hidden = (~seen[i]).view(case.spatial).to(device)
        spoilt = [t.clone() for t in (key, value)]
        for t in spoilt:
            t[:, hidden] = float("nan")
        out, lse = forward(query, *spoilt, *rest)
        found = [out, lse, backward(d_out, d_lse, query, *spoilt, clean_out, clean_lse, *rest)[0]]
        for name, one, other in zip(("out", "lse", "d_query"), found, clean, strict=True):
            one = one.flatten(1, len(case.spatial))[:, i]
            assert torch.equal(one, other[:, i]), f"{name} of token {i} depends on what it does not see"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("case", POISONED, ids=lambda case: "x".join(map(str, case.spatial)))
@pytest.mark.parametrize("backend", COMPILED)
def test_a_key_has_its_gradient_from_those_who_see_it(backend, case, dtype, poisoned):
    """NaN in all that belongs to the queries that do not see one key: its gradients stay what they were."""
    device = device_of(backend)
    operator = OPERATORS[backend]
    (query, key, value, *optional), d_out, d_lse = make(case, dtype, device)
    rest = (*optional, *case.window, case.scale)
    out, lse = getattr(torch.ops.bestiary, f"{operator}_forward")(query, key, value, *rest)
    backward = getattr(torch.ops.bestiary, f"{operator}_backward")
    clean = [t.flatten(1, len(case.spatial)) for t in backward(d_out, d_lse, query, key, value, out, lse, *rest)[1:3]]
    seen = sight(case)
    for j in tokens_to_try(case):
        blind = (~seen[:, j]).view(case.spatial).to(device)
        spoilt = [t.clone() for t in (d_out, d_lse, query, out, lse)]
        for t in spoilt:
            t[:, blind] = float("nan")
        grads = backward(*spoilt[:3], key, value, *spoilt[3:], *rest)[1:3]
        for name, one, other in zip(("d_key", "d_value"), grads, clean, strict=True):
            one = one.flatten(1, len(case.spatial))[:, j]
            assert torch.equal(one, other[:, j]), f"{name} of token {j} depends on queries that do not see it"
