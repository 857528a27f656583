"""The Triton backend: on a GPU, and under Triton's interpreter on maps that are small enough for it.

Triton reads TRITON_INTERPRET when it is imported, so the cases run in processes of their own: this file again, started
by `test_under_the_interpreter`. TRITON_INTERPRET=1 pytest THIS_FILE runs them here.
"""

import itertools
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
from bestiary.kernels import neighborhood_attention
from bestiary.kernels.neighborhood_attention import triton as backend
from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.triton import tiling
from bestiary.kernels.neighborhood_attention.windows import Window, key_range

triton = pytest.importorskip("triton")
import triton.language as tl  # noqa: E402

from bestiary.kernels.neighborhood_attention.triton.windows import query_range  # noqa: E402

INTERPRETED = backend.interpreted()
DEVICE = "cpu" if INTERPRETED else "cuda"
PARTS = 4  # processes
on_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="no GPU; test_under_the_interpreter runs it on the CPU"
)
NAMES = "out", "lse", "d_query", "d_key", "d_value", "d_bias", "d_extra_keys", "d_extra_values"


class Case(NamedTuple):
    """A call; letters as in reference.py."""

    spatial: tuple[int, ...]
    kernel_size: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    is_causal: tuple[bool, ...]
    heads: int = 1
    kv_heads: int = 1
    channels: int = 8
    value_channels: int = 8
    extra: int = 0
    bias: bool = False
    d_lse: bool = True
    batch: int = 1

    @property
    def window(self) -> Window:
        return Window(self.kernel_size, self.stride, self.dilation, self.is_causal)


def plain(spatial, k, s=1, d=1, causal=False, **rest) -> Case:
    """One value for all axes, or one each."""
    axes = [value if isinstance(value, tuple) else (value,) * len(spatial) for value in (k, s, d, causal)]
    return Case(spatial, *axes, **rest)


def random_case(number: int) -> Case:
    """A small call at an edge of the rule: windows as long as the axis, groups of unequal length, single tokens."""
    draw = random.Random(number)
    axes = draw.choice((1, 2, 2, 2, 3))
    rows = []
    for _ in range(axes):
        k, d = draw.randint(1, (9, 5, 3)[axes - 1]), draw.choice((1, 1, 2, 3)[: 5 - axes])
        beyond = draw.choice(
            (0, 1, d - 1, d * (k - 1), d * k + 1)
        )  # n = k, n = k + 1, L % d != 0, n = 2 k - 1, 2 k + 1
        length = min(k * d + beyond, max(k * d, (30, 10, 5)[axes - 1]))
        stride = draw.choice((1, 1, k, (k + 1) // 2))
        rows.append((length, k, stride, d, draw.random() < 0.25))
    spatial, k, s, d, causal = zip(*rows, strict=True)
    kv_heads, ratio = draw.choice(((1, 1), (2, 1), (1, 2), (1, 3)))
    channels = draw.choice((3, 8, 16, 24))
    return Case(
        spatial, k, s, d, causal,
        heads=kv_heads * ratio, kv_heads=kv_heads, channels=channels,
        value_channels=draw.choice((channels, channels, 5, 16)), extra=draw.choice((0, 0, 1, 3)),
        bias=not any(causal) and draw.random() < 0.5, d_lse=draw.random() < 0.7, batch=draw.choice((1, 1, 2)),
    )  # fmt: skip


CASES = [
    plain((14, 14), 7, channels=32, value_channels=32, bias=True),
    plain((7, 7), 7, heads=2, kv_heads=2, channels=32, value_channels=32, bias=True),  # k = L
    plain((16, 11), (7, 3), d=(2, 3), channels=16, heads=2),  # unequal dilation groups
    plain((9, 13), (4, 6), s=(4, 3), bias=True),  # even kernels, strided, with a bias
    plain((16, 3), (12, 1), bias=True, channels=16),  # an axis without neighbours; the tile's columns change places
    plain((11,), 11, causal=True, d_lse=False),  # plain causal attention
    plain((40,), 9, s=4, d=2, causal=True, heads=2, extra=2),
    plain((21,), 5, bias=True),
    plain((45,), 36, bias=True),  # a window wider than a chunk
    plain((3, 4, 5), (3, 2, 4), bias=True, heads=2, extra=1),
    plain((1, 6, 7), (1, 3, 5), d=(1, 2, 1), bias=True),  # an axis of one token
    plain((5, 4, 6), (2, 3, 3), s=(2, 1, 2), causal=(True, False, True), heads=2),
    plain((3, 5, 3), (3, 1, 1)),  # neighbours along the first axis alone
    plain((5, 4), 3, channels=70, value_channels=130, extra=17),  # channels in several blocks
    plain((4, 5), (2, 5), channels=130, value_channels=20, bias=True),
    plain((9, 9), 1, extra=2, bias=True),  # the query itself and the additional tokens
    plain((4, 4), 3, channels=1, value_channels=1, batch=2),
]
RANDOM = [random_case(number) for number in range(12)]
MORE = [random_case(number) for number in range(100, 150)]


def normal(generator: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


def tensors(case: Case, dtype: torch.dtype, seed: int = 0) -> tuple[list, torch.Tensor, torch.Tensor | None]:
    """The six tensors of a call, query, key and value views of one packed tensor; then d_out and d_lse."""
    generator = torch.Generator().manual_seed(seed)
    rows, group = (case.batch, *case.spatial), case.kv_heads
    sizes = case.heads * case.channels, group * case.channels, group * case.value_channels
    parts = normal(generator, *rows, sum(sizes)).to(dtype).to(DEVICE).split(sizes, -1)
    heads = case.heads, group, group
    packed = [part.unflatten(-1, (n, part.shape[-1] // n)) for part, n in zip(parts, heads, strict=True)]
    bias = normal(generator, case.heads, *(2 * k - 1 for k in case.kernel_size)).to(DEVICE) if case.bias else None
    extra = [None, None]
    if case.extra:
        widths = case.channels, case.value_channels
        extra = [normal(generator, case.batch, case.extra, group, width).to(dtype).to(DEVICE) for width in widths]
    d_out = normal(generator, *rows, case.heads, case.value_channels).to(dtype).to(DEVICE)
    d_lse = normal(generator, *rows, case.heads).to(DEVICE) if case.d_lse else None
    return [*packed, bias, *extra], d_out, d_lse


def window_lists(case: Case) -> list[list[int]]:
    return [[int(value) for value in entry] for entry in case.window]


def ours(case: Case, inputs, d_out, d_lse, scale: float) -> dict[str, torch.Tensor]:
    out, lse = backend.forward(*inputs, *window_lists(case), scale)
    assert out.is_contiguous() and out.dtype == inputs[0].dtype and lse.dtype == torch.float32
    grads = backend.backward(d_out, d_lse, *inputs[:3], out, lse, *inputs[3:], *window_lists(case), scale)
    found = dict(zip(NAMES, (out, lse, *grads), strict=True))
    for name, tensor in zip(NAMES[2:], inputs, strict=True):
        assert found[name].shape == ((0,) if tensor is None else tensor.shape), name
    return {name: t.double().cpu() for name, t in found.items() if t.shape != (0,)}


def by_autograd(run, inputs, d_out, d_lse, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    inputs = [None if t is None else t.detach().cpu().to(dtype).requires_grad_() for t in inputs]
    out, lse = run(*inputs)
    outputs, seeds = [out], [d_out.cpu().to(out.dtype)]
    if d_lse is not None:
        outputs, seeds = [out, lse], [*seeds, d_lse.cpu().to(lse.dtype)]
    grads = iter(torch.autograd.grad(outputs, [t for t in inputs if t is not None], seeds))
    found = [out, lse, *(None if t is None else next(grads) for t in inputs)]
    return {name: t.detach().double() for name, t in zip(NAMES, found, strict=True) if t is not None}


def judge(case: Case, dtype: torch.dtype, dense, floor: float) -> None:
    """Against float64: twice the error of plain PyTorch in this dtype, and a few roundings of the largest value."""
    inputs, d_out, d_lse = tensors(case, dtype)
    scale = case.channels**-0.5
    found = ours(case, inputs, d_out, d_lse, scale)
    truth = by_autograd(
        lambda *t: neighborhood_attention_reference(*t, case.window, scale), inputs, d_out, d_lse, torch.float64
    )
    usual = by_autograd(lambda *t: dense(*t, case.window, scale), inputs, d_out, d_lse, dtype)
    assert found.keys() == truth.keys()
    for name, wanted in truth.items():
        error = (found[name] - wanted).abs().max().item()
        theirs = (usual[name] - wanted).abs().max().item()
        size = max(1.0, wanted.abs().max().item())
        print(f"{name}: error {error:.2e}, plain PyTorch's {theirs:.2e}")
        assert error <= 2 * theirs + floor * size, f"{name}: {error:.3g}, plain PyTorch's {theirs:.3g}"


def split(cases) -> list:
    """Cases with the process that runs them in their name."""
    return [pytest.param(case, id=f"part{i % PARTS}-{i}") for i, case in enumerate(cases)]


@on_device
@pytest.mark.parametrize("case", split(CASES + RANDOM))
def test_float32(case, dense, poisoned):
    judge(case, torch.float32, dense, 4 * torch.finfo(torch.float32).eps)


@on_device
@pytest.mark.parametrize("case", split(CASES[:4] + RANDOM[::4]))
def test_float16(case, dense, poisoned):
    judge(case, torch.float16, dense, torch.finfo(torch.float16).eps)


@on_device
@pytest.mark.parametrize("case", split(CASES[:4]))
def test_bfloat16(case, dense, poisoned):
    # The interpreter truncates where a GPU rounds.
    judge(case, torch.bfloat16, dense, torch.finfo(torch.bfloat16).eps * (2 if INTERPRETED else 1))


@on_device
@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
@pytest.mark.parametrize("case", split(MORE))
def test_more_random_calls(case, dtype, dense, poisoned):
    judge(case, dtype, dense, 4 * torch.finfo(dtype).eps)


@triton.jit
def ranges_kernel(out, n, K: tl.constexpr, S: tl.constexpr, C: tl.constexpr, BLOCK: tl.constexpr):
    first = tl.arange(0, BLOCK)
    start, end = query_range(first, tl.minimum(first + 1, n - 1), n, K, S, C)
    tl.store(out + first, start, mask=first < n)
    tl.store(out + BLOCK + first, end, mask=first < n)


@on_device
def test_part0_the_inverse_of_the_index_rule():
    """`query_range` in Triton against the rule of windows.py, one query at a time."""
    for n, k, causal in itertools.product((1, 2, 5, 8, 13, 16), (1, 2, 3, 4, 7), (False, True)):
        for s in range(1, k + 1) if k <= n else ():
            starts, ends = key_range(torch.arange(n), n, k, s, causal)
            found = torch.full((2, 16), -1, dtype=torch.int32, device=DEVICE)
            ranges_kernel[(1,)](found, n, k, s, causal, 16)
            for key in range(n):
                last = min(key + 1, n - 1)
                seeing = [i for i in range(n) if starts[i] <= last and ends[i] > key]
                assert found[:, key].tolist() == [seeing[0], seeing[-1] + 1], (n, k, s, causal, key)


@on_device
def test_part1_equal_at_every_run():
    case = plain((6, 9), (3, 5), bias=True, extra=2)
    inputs, d_out, d_lse = tensors(case, torch.float32)
    first, second = (ours(case, inputs, d_out, d_lse, 0.3) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)


@on_device
def test_part2_keys_outside_of_the_window_do_not_matter():
    case = plain((10, 12), (3, 5), d=(2, 1), channels=16, value_channels=16)
    (query, key, value, *rest), *_ = tensors(case, torch.float32)
    out, lse = backend.forward(query, key, value, *rest, *window_lists(case), 0.25)
    key, value = key.clone(), value.clone()
    key[:, 1::2] = 50.0  # the other dilation group
    value[:, 1::2] = -7e4
    key[:, :, 8:], value[:, :, 8:] = -60.0, 1e30
    changed, changed_lse = backend.forward(query, key, value, *rest, *window_lists(case), 0.25)
    assert torch.equal(out[:, ::2, :6], changed[:, ::2, :6]) and torch.equal(lse[:, ::2, :6], changed_lse[:, ::2, :6])
    assert not torch.equal(out[:, ::2, 6], changed[:, ::2, 6])


@on_device
def test_part3_through_the_operator_and_its_autograd():
    """Heads before tokens, a gradient that is expanded, one window a tuple, and additional tokens of which none is."""
    generator = torch.Generator().manual_seed(1)
    q, k, v = (normal(generator, 2, 3, 6, 8, 4).to(DEVICE).movedim(1, -2).requires_grad_() for _ in range(3))
    none = torch.empty(2, 0, 3, 4, device=DEVICE)
    options = dict(kernel_size=(3, 5), return_lse=True, additional_keys=none, additional_values=none)
    grads = []
    for name in ("triton", "reference"):
        out, lse = neighborhood_attention(q, k, v, **options, backend=name)
        grads.append(torch.autograd.grad(out.sum() + (lse * lse).sum(), (q, k, v)))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@on_device
@pytest.mark.parametrize("shape", [(0, 5, 6, 2, 8), (2, 5, 6, 0, 8)], ids=["part2-batch", "part3-heads"])
def test_nothing_to_do(shape):
    q = torch.randn(shape, device=DEVICE)
    bias = torch.randn(shape[-2], 5, 5, device=DEVICE)
    extra = torch.randn(shape[0], 3, shape[-2], 8, device=DEVICE)
    window = [3, 3], [1, 1], [1, 1], [0, 0], 0.3
    out, lse = backend.forward(q, q, q, bias, extra, extra, *window)
    grads = backend.backward(out, lse, q, q, q, out, lse, bias, extra, extra, *window)
    assert out.shape == shape and lse.shape == shape[:-1]
    assert [g.shape for g in grads] == [q.shape, q.shape, q.shape, bias.shape, extra.shape, extra.shape]
    assert all(torch.equal(g, torch.zeros_like(g)) for g in grads)


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
@pytest.mark.parametrize("part", [pytest.param(part, marks=pytest.mark.slow if part else ()) for part in range(PARTS)])
@one_day_in(4, 16)
def test_under_the_interpreter(part):
    """The cases above in a process of their own, on the CPU."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow and not gpu", "-k", f"part{part}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, *options],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    expected = len(split(CASES + RANDOM)[part::PARTS]) + len(split(CASES[:4] + RANDOM[::4])[part::PARTS]) + 1
    assert passed and int(passed[1]) >= expected and "skipped" not in done.stdout


def test_it_is_imported_at_first_use():
    """The room of kernels needs no Triton, and this backend says that it is not there."""
    program = (
        "import sys\nsys.modules['triton'] = None\n"
        "from bestiary.kernels import backends\n"
        "print([line.reason for line in backends('neighborhood_attention') if line.name == 'triton'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "the package triton is not installed: pip install triton" in done.stdout


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="there is a device that it takes")
def test_it_says_why_it_does_not_run_here():
    assert "there is no CUDA device here" in backend.unavailable()
    q = torch.randn(1, 5, 5, 2, 8)
    with pytest.raises(InputError, match=r"'triton' cannot serve this call: it takes CUDA tensors, these are on cpu"):
        neighborhood_attention(q, q, q, 3, backend="triton")


@on_device
def test_part0_it_refuses_float64():
    q = torch.randn(1, 5, 5, 2, 8, dtype=torch.float64, device=DEVICE)
    with pytest.raises(InputError, match=r"it takes float32, float16 and bfloat16, not torch.float64"):
        neighborhood_attention(q, q, q, 3, backend="triton")


def test_old_gpus_are_refused(monkeypatch):
    monkeypatch.setattr(backend, "interpreted", lambda: False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.version, "hip", None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))
    assert backend.unavailable() == "Triton compiles for compute capability 8.0 and later, this GPU has 7.5"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 0))
    assert backend.unavailable() is None


def axes(spatial, k, d=1) -> tiling.Axes:
    n = len(spatial)
    k = k if isinstance(k, tuple) else (k,) * n
    return tiling.axes_of(spatial, k, (1,) * n, (d,) * n, (False,) * n)


@pytest.mark.parametrize(
    ("spatial", "k", "shape"),
    [((56, 56), 7, (1, 8, 8)), ((56, 56), 13, (1, 16, 4)), ((4096,), 63, (1, 1, 64)), ((8, 16, 16), 3, (8, 2, 4))],
)
def test_tiles_by_the_rule(spatial, k, shape):
    """Tiles meet few chunks; the chunk of the masks has 32 tokens at most, one bit each."""
    found = tiling.tiling(axes(spatial, k), "forward", 32, 32, 2, False)
    assert found.tile == shape and found.block == 64 and found.chunk == 32


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("kernel", ["forward", "query", "key"])
@pytest.mark.parametrize("bias", [False, True])
def test_tiles_are_what_triton_takes(kernel, itemsize, bias):
    """Powers of two, 16 or more a side, whatever the widths and windows."""
    spaces = [((9,), 9), ((9, 5), (1, 5)), ((9, 5), (7, 1)), ((3, 9, 70), (3, 1, 70)), ((5, 5, 5), (1, 1, 1))]
    for (spatial, k), width in itertools.product(spaces, (1, 17, 64, 65, 300)):
        found = tiling.tiling(axes(spatial, k), kernel, width, 2 * width, itemsize, bias)
        for size in (found.block, found.chunk, found.channels, found.value_channels):
            assert size >= 16 and size & (size - 1) == 0
        assert found.rows * found.columns == found.chunk <= 32


def test_tile_sizes_do_not_depend_on_the_map():
    assert all(
        tiling.tiling(axes((n, n + 3), 7), "key", 32, 32, 2, True)
        == tiling.tiling(axes((56, 56), 7, 8), "key", 32, 32, 2, True)
        for n in (7, 28, 334)
    )


def test_axes_without_neighbours_come_first():
    found = tiling.axes_of((5, 6, 7), (3, 1, 2), (2, 1, 2), (1, 4, 3), (True, True, False))
    assert found == tiling.Axes((1, 0, 2), (6, 5, 7), (1, 3, 2), (1, 2, 2), (1, 1, 3), (False, True, False))
    assert found.token_strides() == (7, 42, 1) and found.bias_strides() == (3, 3, 1)
    assert found.strides(torch.empty(2, 5, 6, 7, 4, 8)) == (6720, 224, 1344, 32, 8)
    assert found.tiles((1, 2, 2)) == (6, 3, 2)  # the longest dilation group of the last axis has 3 tokens
    assert axes((9,), 3).order == (None, None, 0)


@pytest.mark.parametrize(
    ("strides", "unit"), [((24, 192, 0), 8), ((32, 96), 16), ((33, 64), 1), ((0, 0), 16), ((40, 20), 4)]
)
def test_what_rows_addresses_are_multiples_of(strides, unit):
    assert tiling.common_unit(*strides) == unit
