"""Bi-level routed attention in Triton: on a GPU, and under Triton's interpreter on maps of few tokens.

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
from bestiary.kernels import bi_level_routing_attention
from bestiary.kernels.bi_level_routing import Routing
from bestiary.kernels.bi_level_routing import triton as backend
from bestiary.kernels.bi_level_routing.arguments import Call
from bestiary.kernels.bi_level_routing.dispatch import BACKENDS, rank
from bestiary.kernels.bi_level_routing.reference import bi_level_routing_attention_reference
from bestiary.kernels.bi_level_routing.triton import tiling

pytest.importorskip("triton")

INTERPRETED = backend.interpreted()
DEVICE = "cpu" if INTERPRETED else "cuda"
PARTS = 3  # processes
on_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="no GPU; test_under_the_interpreter runs it on the CPU"
)
NAMES = "out", "lse", "d_q", "d_k", "d_v", "d_weights"


class Case(NamedTuple):
    """A call; letters as in regions.py. Sizes of regions, not of maps."""

    grid: tuple[int, int]
    topk: int
    region: tuple[int, int]
    kv_region: tuple[int, int]
    heads: int = 1
    channels: int = 8
    value_channels: int = 8
    batch: int = 1
    lepe: bool = False
    mask: bool = False
    soft: bool = False

    def size(self, region: tuple[int, int]) -> tuple[int, int]:
        return self.grid[0] * region[0], self.grid[1] * region[1]


def random_case(number: int) -> Case:
    draw = random.Random(number)
    grid = draw.randint(1, 3), draw.randint(1, 2)
    region = draw.randint(1, 3), draw.randint(1, 5)
    return Case(
        grid, draw.randint(1, grid[0] * grid[1]), region,
        draw.choice((region, (draw.randint(1, 5), draw.randint(1, 2)))), draw.randint(1, 2),
        draw.choice((1, 3, 8, 16)), draw.choice((1, 5, 8, 20)), draw.randint(1, 2), draw.random() < 0.5,
        draw.random() < 0.5, draw.random() < 0.5,
    )  # fmt: skip


CASES = [
    Case((2, 2), 2, (3, 3), (3, 3), 2, 32, 32, lepe=True),
    Case((2, 1), 2, (4, 5), (2, 3), 1, 16, 8, mask=True, soft=True),  # queries in two tiles; duplicate choices
    Case((1, 2), 1, (1, 1), (5, 8), 1, 3, 5, 2, lepe=True, mask=True),  # keys in several chunks
    Case((3, 2), 6, (2, 2), (1, 3), 1, 70, 130, soft=True),  # channels in several blocks
    Case((2, 2), 3, (1, 2), (2, 1), 2, 1, 1, 2),
]
RANDOM = [random_case(number) for number in range(7)]
MORE = [random_case(number) for number in range(100, 160)]
WIDE = [  # as networks have them: on a GPU alone
    Case((7, 7), 1, (8, 8), (8, 8), 2, 32, 32, 2, lepe=True),
    Case((7, 7), 4, (4, 4), (4, 4), 4, 32, 32, 2, lepe=True),
    Case((7, 7), 16, (2, 2), (2, 2), 8, 32, 32, 2, lepe=True, mask=True),
    Case((16, 16), 4, (7, 11), (7, 11), 2, 32, 32, 1, mask=True, soft=True),
    Case((7, 7), 49, (1, 1), (1, 1), 16, 64, 64, 2),
]


def tensors(case: Case, dtype: torch.dtype) -> tuple[list, list, torch.Tensor]:
    """q, k, v, views of packed tensors, and lepe; mask, index and weights; the gradient of the output."""
    generator = torch.Generator().manual_seed(case.topk)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    def over(region: tuple[int, int], width: int) -> torch.Tensor:
        return normal(case.batch, *case.size(region), case.heads, width).to(DEVICE)

    keys_and_values = over(case.kv_region, case.channels + case.value_channels)
    k, v = keys_and_values.split((case.channels, case.value_channels), -1)
    lepe = over(case.region, case.value_channels) if case.lepe else None
    learnt = [over(case.region, case.channels + 3)[..., : case.channels], k, v, lepe]
    mask = None
    if case.mask:
        mask = torch.rand(case.batch, *case.size(case.kv_region), generator=generator) < 0.5
        mask[0, : case.kv_region[0]] = False  # a whole row of regions
        mask = mask.to(DEVICE)
        for x in (k, v):  # what is masked must not matter
            x.masked_fill_(~mask[..., None, None], float("nan"))
    regions = case.grid[0] * case.grid[1]
    shape = case.batch, regions, case.topk
    index = torch.rand(case.batch, regions, regions, generator=generator).argsort(-1)[..., : case.topk]
    if case.soft:  # a region that is chosen twice, and one that nobody chooses
        index = torch.randint(max(1, regions - 1), shape, generator=generator)
    weights = torch.rand(shape, generator=generator).to(DEVICE) * 2 if case.soft else None
    return learnt, [mask, index.to(DEVICE).contiguous(), weights], over(case.region, case.value_channels)


def ours(case: Case, dtype: torch.dtype, scale: float) -> dict[str, torch.Tensor]:
    learnt, (mask, index, weights), d_out = tensors(case, dtype)
    out, lse = backend.forward(*learnt, mask, index, weights, list(case.grid), scale)
    grads = backend.backward(d_out, *learnt[:3], lse, mask, index, weights, list(case.grid), scale)
    assert out.is_contiguous() and out.dtype == dtype and lse.dtype == torch.float32
    for grad, x in zip(grads, (*learnt[:3], weights), strict=True):
        assert x is None or (grad.shape == x.shape and grad.dtype == x.dtype and grad.is_contiguous())
    found = dict(zip(NAMES, (out, lse, *grads), strict=True))
    return {name: x.double().cpu() for name, x in found.items() if name != "d_weights" or case.soft}


def by_autograd(case: Case, dtype: torch.dtype, wide: torch.dtype, scale: float) -> dict[str, torch.Tensor]:
    learnt, (mask, index, weights), d_out = tensors(case, dtype)
    learnt = [None if x is None else x.cpu().to(wide).requires_grad_() for x in (*learnt, weights)]
    q, k, v, lepe, weights = learnt
    mask, routing = None if mask is None else mask.cpu(), Routing(index.cpu(), weights)
    out = bi_level_routing_attention_reference(q, k, v, lepe, mask, routing, case.grid, scale)
    wanted = [x for x in (q, k, v, weights) if x is not None]
    grads = torch.autograd.grad(out, wanted, d_out.cpu().to(wide))
    return dict(
        zip(
            [name for name in NAMES if name != "lse"],
            (out.detach().double(), *(g.double() for g in grads)),
            strict=False,
        )
    )


def judge(case: Case, dtype: torch.dtype) -> None:
    """Against float64: twice the error of the definition in float32, and a few roundings of the largest value."""
    scale = 1.3 * case.channels**-0.5
    found, truth = ours(case, dtype, scale), by_autograd(case, dtype, torch.float64, scale)
    usual = by_autograd(case, dtype, torch.float32, scale)
    assert found.keys() - {"lse"} == truth.keys()
    # The interpreter truncates bfloat16 where a GPU rounds.
    floor = torch.finfo(dtype).eps * (8 if dtype == torch.float32 else 2 if dtype == torch.bfloat16 else 1)
    for name, wanted in truth.items():
        error = (found[name] - wanted).abs().max().item()
        theirs = (usual[name] - wanted).abs().max().item()
        size = max(1.0, wanted.abs().max().item())
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
@pytest.mark.parametrize("case", split(CASES[:4]))
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
def test_part0_equal_at_every_run_and_through_autograd():
    case = Case((2, 2), 2, (2, 2), (2, 2), soft=True, lepe=True)
    first, second = (ours(case, torch.float32, 0.5) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in NAMES)
    learnt, (mask, index, weights), d_out = tensors(case, torch.float32)
    given = [x.requires_grad_() for x in (*learnt, weights)]
    out = bi_level_routing_attention(
        *given[:3], case.grid, case.topk, 0.5, given[3], mask, (index, given[4]), backend="triton"
    )
    grads = torch.autograd.grad(out, given, d_out)
    assert torch.equal(out.detach().double().cpu(), first["out"]) and torch.equal(grads[3], d_out)
    for name, grad in zip(("d_q", "d_k", "d_v", "d_weights"), (*grads[:3], grads[4]), strict=True):
        assert torch.equal(grad.double().cpu(), first[name])


@on_device
def test_part1_the_lse_is_that_of_the_scores():
    """One region of one token sees three keys; nothing seen is 0."""
    q, k = torch.randn(1, 1, 1, 1, 4, device=DEVICE), torch.randn(1, 1, 3, 1, 4, device=DEVICE)
    index = torch.zeros(1, 1, 1, dtype=torch.int64, device=DEVICE)
    _, lse = backend.forward(q, k, k, None, None, index, None, [1, 1], 0.7)
    torch.testing.assert_close(lse.flatten(), (0.7 * (q * k).sum(-1)).logsumexp(2).flatten())
    none = torch.zeros(1, 1, 3, dtype=torch.bool, device=DEVICE)
    out, lse = backend.forward(q, k, k, None, none, index, None, [1, 1], 0.7)
    assert not out.any() and not lse.any()


@on_device
def test_part1_registered_as_operators():
    """Schemas, and fake tensors of the same shapes, dtypes and strides."""
    case = Case((1, 2), 1, (1, 2), (1, 2), lepe=True, soft=True)
    learnt, routing, d_out = tensors(case, torch.float32)
    of_torch, checks, options = torch.ops.bestiary, ("test_schema", "test_faketensor"), (list(case.grid), 0.5)
    torch.library.opcheck(of_torch.bi_level_routing_triton_forward, (*learnt, *routing, *options), test_utils=checks)
    lse = backend.forward(*learnt, *routing, *options)[1]
    arguments = d_out, *learnt[:3], lse, *routing, *options
    torch.library.opcheck(of_torch.bi_level_routing_triton_backward, arguments, test_utils=checks)


@on_device
@pytest.mark.parametrize(("batch", "heads"), [(0, 2), (2, 0)], ids=["part0-batch", "part2-heads"])
def test_nothing_to_do(batch, heads):
    learnt, (mask, index, weights), d_out = tensors(
        Case((1, 2), 1, (2, 2), (2, 2), heads, batch=batch, soft=True), torch.float32
    )
    out, lse = backend.forward(*learnt, mask, index, weights, [1, 2], 0.5)
    grads = backend.backward(d_out, *learnt[:3], lse, mask, index, weights, [1, 2], 0.5)
    assert out.shape == d_out.shape and [g.shape for g in grads] == [x.shape for x in (*learnt[:3], weights)]
    assert not grads[3].any()


@pytest.mark.skipif(INTERPRETED, reason="this is the interpreter")
@pytest.mark.parametrize("part", [pytest.param(part, marks=pytest.mark.slow if part else ()) for part in range(PARTS)])
@one_day_in(4, 18)
def test_under_the_interpreter(part):
    """The cases above in a process of their own, on the CPU."""
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:randomly", "-m", "not slow and not gpu", "-k", f"part{part}"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", __file__, *options],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed and int(passed[1]) >= len((CASES + RANDOM)[part::PARTS]) + 3 and "skipped" not in done.stdout


@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="there is a device that it takes")
def test_it_says_why_it_does_not_run_here():
    assert "there is no CUDA device here" in backend.unavailable()
    q = torch.randn(1, 4, 4, 1, 8)
    with pytest.raises(InputError, match=r"'triton' cannot serve this call: it takes CUDA tensors, these are on cpu"):
        bi_level_routing_attention(q, q, q, 2, 1, None, backend="triton")


def some_call(**changes) -> Call:
    fields = dict.fromkeys(Call._fields, False) | dict(device=torch.device("cpu"), dtype=torch.float32) | changes
    return Call(**fields)


def test_what_it_does_not_take(monkeypatch):
    monkeypatch.setattr(backend, "interpreted", lambda: True)
    assert backend.why_not(some_call()) is None
    for change, reason in (
        (dict(dtype=torch.float64), "it takes float32, float16 and bfloat16, not torch.float64"),
        (dict(forward_mode=True), "it has no forward-mode derivative"),
        (dict(device=torch.device("meta")), "it takes CUDA tensors, these are on meta"),
    ):
        assert backend.why_not(some_call(**change)) == reason


def test_it_is_tried_first_on_a_gpu_and_never_unasked_on_a_cpu():
    assert rank(some_call(device=torch.device("cuda")))[0] == "triton"
    assert "triton" not in rank(some_call()) and "triton" in BACKENDS


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize("backward", [False, True])
def test_tiles_are_what_triton_takes(backward, itemsize):
    """Powers of two, 16 or more a side, whatever the regions and widths; small regions have small tiles."""
    for tokens in (1, 4, 17, 64, 1000):
        for width in (1, 17, 64, 65, 300):
            found = tiling.tiling(tokens, width, 2 * width, itemsize, backward)
            for size in found[:4]:
                assert size >= 16 and size & (size - 1) == 0
            assert tokens > 16 or found.tile == 16
