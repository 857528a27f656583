"""The CUDA kernels without a GPU: compiled for the CPU over an emulator of GPU threads, and compared with float64."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shares import todays

from bestiary.kernels.neighborhood_attention import cuda
from bestiary.kernels.neighborhood_attention.windows import Window

HERE = Path(__file__).parent
SOURCES = Path(cuda.__file__).parent / "csrc" / "cuda"
NAMES = {torch.float32: "float32", torch.float16: "float16", torch.bfloat16: "bfloat16"}

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++"),
    pytest.mark.usefixtures("poisoned"),
]


@pytest.fixture(scope="session")
def harness():
    spec = importlib.util.spec_from_file_location("cuda_on_cpu_harness", HERE / "cuda_on_cpu" / "harness.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def emulated(harness, tmp_path_factory):
    """The harness, its operators loaded."""
    harness.load(harness.compile_library(SOURCES, tmp_path_factory.mktemp("emulated")))
    return harness


def plain_results(harness, dense, tensors, window_and_scale):
    """Plain PyTorch in the dtype of the tensors; the LSE in float32."""
    *window, scale = window_and_scale
    window = Window(*(tuple(entry) for entry in window))
    leaves = [None if t is None else t.detach().requires_grad_() for t in tensors]
    out, lse = dense(*leaves, window, scale)
    d_out, d_lse = harness.seeds(out, lse)
    grads = iter(torch.autograd.grad([out, lse], [t for t in leaves if t is not None], [d_out, d_lse]))
    gradients = [None if t is None else next(grads) for t in leaves]
    precise = dense(*(None if t is None else t.float() for t in tensors), window, scale)[1]
    return out.detach(), precise, *gradients


def check(harness, dense, tensors, window_and_scale):
    plain = plain_results(harness, dense, tensors, window_and_scale)
    for name, (error, allowed) in harness.compare(tensors, window_and_scale, plain).items():
        shapes = [None if t is None else tuple(t.shape) for t in tensors]
        assert error <= allowed, f"{name}: {error:.3g} > {allowed:.3g} for {shapes} {window_and_scale}"


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("part", todays(range(4), 4))
def test_random_calls(emulated, dense, dtype, part):
    for seed in range(10 * part, 10 * part + 10):
        check(emulated, dense, *emulated.random_case(seed, dtype))


def tensors_of(dtype, batch, spatial, heads, groups, d, e, bias_for=None, extra=0, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator).to(dtype)

    bias = None if bias_for is None else torch.randn(heads, *(2 * k - 1 for k in bias_for), generator=generator)
    extras = (normal(batch, extra, groups, d), normal(batch, extra, groups, e)) if extra else (None, None)
    q, k = normal(batch, *spatial, heads, d), normal(batch, *spatial, groups, d)
    return q, k, normal(batch, *spatial, groups, e), bias, *extras


LARGER = {  # spatial, (kernel, stride, dilation, causal), heads, kv heads, D, E, extra
    "several tiles": ((19, 21), ([7, 7], [1, 1], [1, 1], [0, 0]), 1, 1, 32, 32, 0),
    "several chunks": ((20, 20), ([13, 13], [1, 1], [1, 1], [0, 0]), 1, 1, 64, 64, 5),
    "a group in one tile": ((14, 28), ([7, 7], [1, 1], [1, 2], [0, 0]), 1, 1, 32, 32, 3),
    "long sequence": ((300,), ([65], [1], [1], [0]), 1, 1, 16, 16, 17),
    "causal sequence": ((300,), ([300], [1], [1], [1]), 1, 1, 16, 16, 0),
    "blocks": ((24, 24), ([8, 8], [8, 8], [1, 1], [0, 0]), 1, 1, 32, 32, 0),
    "volume": ((6, 7, 9), ([3, 5, 7], [1, 2, 1], [1, 1, 1], [0, 0, 0]), 2, 1, 24, 24, 1),
    "wide heads": ((6, 6), ([5, 5], [1, 1], [1, 1], [0, 0]), 1, 1, 128, 100, 2),
    "widest heads": ((5, 9), ([5, 5], [1, 1], [1, 1], [0, 0]), 2, 1, 256, 256, 1),
    "values wider than keys": ((5, 9), ([5, 5], [1, 1], [1, 1], [0, 0]), 1, 1, 8, 200, 0),
    "many additional tokens": ((7, 5), ([3, 3], [1, 1], [1, 1], [0, 0]), 2, 1, 32, 32, 150),
}


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.get)
@pytest.mark.parametrize("name", LARGER)
def test_larger_calls(emulated, dense, name, dtype):
    spatial, window, heads, groups, d, e, extra = LARGER[name]
    bias_for = None if any(window[3]) else window[0]
    check(emulated, dense, tensors_of(dtype, 1, spatial, heads, groups, d, e, bias_for, extra), (*window, d**-0.5))


@pytest.mark.parametrize("kilobytes", [227, 163, 99])
def test_small_shared_memory(emulated, dense, monkeypatch, kilobytes):
    """Of an sm_90, an sm_80 and an sm_86: fewer warps and columns, the same results."""
    monkeypatch.setenv("NA_EMULATED_SHARED", str(kilobytes))
    tensors = tensors_of(torch.float32, 1, (5, 7), 1, 1, 256, 256, (3, 3), 3)
    check(emulated, dense, tensors, ([3, 3], [1, 1], [1, 1], [0, 0], 0.1))


def test_bias_tables_of_any_size(emulated, dense):
    """Too large for shared memory: read from where it is, its gradient gathered in the workspace."""
    tensors = tensors_of(torch.bfloat16, 1, (43, 41), 1, 1, 16, 16, (41, 37))
    check(emulated, dense, tensors, ([41, 37], [1, 1], [1, 1], [0, 0], 0.25))


@pytest.mark.parametrize("seed", [1, 6, 11, 23])
def test_the_same_bits_in_any_order_of_threads(emulated, monkeypatch, seed):
    """Threads run in the other order: a missing barrier or a sum in the order of arrival would show."""
    for dtype in NAMES:
        tensors, window_and_scale = emulated.random_case(seed, dtype)
        first = emulated.run(tensors, window_and_scale)
        with monkeypatch.context() as context:
            context.setenv("NA_EMULATED_REVERSE", "1")
            second = emulated.run(tensors, window_and_scale)
        for one, other in zip(first, second, strict=True):
            assert torch.equal(one, other)


def test_many_items_share_a_table_of_the_bias(emulated, dense):
    """More tiles than partial tables: each CTA takes several, in a fixed order."""
    tensors = tensors_of(torch.bfloat16, 40, (9, 7), 1, 1, 8, 8, (3, 3))
    check(emulated, dense, tensors, ([3, 3], [1, 1], [3, 1], [0, 0], 0.3))


def test_nothing_to_do(emulated):
    forward, backward = torch.ops.bestiary_emulated.na_forward, torch.ops.bestiary_emulated.na_backward
    window_and_scale = [3, 3], [1, 1], [1, 1], [0, 0], 1.0
    for batch, heads in ((0, 2), (2, 0)):
        q = torch.randn(batch, 5, 4, heads, 8)
        bias = torch.randn(heads, 5, 5)
        out, lse = forward(q, q, q, bias, None, None, *window_and_scale)
        assert out.shape == q.shape and lse.shape == q.shape[:-1]
        grads = backward(out, lse, q, q, q, out, lse, bias, None, None, *window_and_scale)
        assert [g.shape for g in grads] == [q.shape] * 3 + [bias.shape, (0,), (0,)]
        assert (grads[3] == 0).all()


def test_no_additional_tokens_are_none(emulated):
    tensors, window_and_scale = emulated.random_case(3, torch.float32)
    q, k, v, bias, _, _ = tensors
    none = [t.new_empty(t.shape[0], 0, t.shape[-2], t.shape[-1]) for t in (k, v)]
    some = emulated.run((q, k, v, bias, None, None), window_and_scale)
    other = emulated.run((q, k, v, bias, *none), window_and_scale)
    assert all(torch.equal(a, b) for a, b in zip(some[:6], other[:6], strict=True))
    assert [g.shape for g in other[6:]] == [t.shape for t in none]


@pytest.mark.parametrize("dtype", NAMES, ids=NAMES.get)
def test_nan_reaches_those_who_see_it_and_no_others(emulated, dtype):
    tensors = tensors_of(dtype, 1, (11, 13), 1, 1, 32, 32)
    window_and_scale = [5, 5], [1, 1], [1, 1], [0, 0], 0.2
    clean = emulated.run(tensors, window_and_scale)
    for number, name in ((1, "key"), (2, "value")):
        spoilt = list(tensors)
        spoilt[number] = tensors[number].clone()
        spoilt[number][0, 5, 6, 0, 3] = float("nan")
        found = emulated.run(tuple(spoilt), window_and_scale)
        seen = torch.zeros(11, 13, dtype=torch.bool)
        seen[3:8, 4:9] = True  # the window, turned around
        assert found[0][0][seen].isnan().all(), name
        for which in (0, 2) if name == "value" else (0, 1, 2):
            assert torch.equal(found[which][0][~seen], clean[which][0][~seen]), name
    for number, name in ((0, "query"), (3, "d_out")):
        q, k, v = (t.clone() for t in tensors[:3])
        out, lse = (t.clone() for t in clean[:2])
        d_out, d_lse = emulated.seeds(out, lse)
        dict(query=q, d_out=d_out)[name][0, 5, 6, 0, 3] = float("nan")
        grads = torch.ops.bestiary_emulated.na_backward(
            d_out, d_lse, q, k, v, out, lse, None, None, None, *window_and_scale
        )
        for ours, before in zip(grads[1:3], clean[3:5], strict=True):
            assert torch.equal(ours[0][~seen], before[0][~seen]), (number, name)
            assert ours[0][seen].isnan().all(), name


def test_what_it_refuses(emulated):
    q = torch.randn(1, 4, 1, 257)
    with pytest.raises(RuntimeError, match="heads are at most 256 channels wide"):
        torch.ops.bestiary_emulated.na_forward(q, q, q, None, None, None, [3], [1], [1], [0], 1.0)
    q = torch.randn(1, 4, 1, 8, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="it takes float16, bfloat16 and float32"):
        torch.ops.bestiary_emulated.na_forward(q, q, q, None, None, None, [3], [1], [1], [0], 1.0)


@pytest.mark.slow
def test_many_random_calls(emulated, dense):
    for seed in range(1000, 1600):
        check(emulated, dense, *emulated.random_case(seed, list(NAMES)[seed % 3]))


@pytest.mark.slow
def test_with_sanitizers(harness, tmp_path):
    """Addresses and undefined behaviour, shared memory included: each CTA's is a block of exactly its size."""
    flags = "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined", "-fno-omit-frame-pointer"
    library = harness.compile_library(SOURCES, tmp_path, flags)
    found = [
        subprocess.check_output(["g++", f"-print-file-name={name}"], text=True)
        for name in ("libasan.so", "libstdc++.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": " ".join(path.strip() for path in found),
        "ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0",
    }
    command = [sys.executable, str(HERE / "cuda_on_cpu" / "harness.py"), str(library), "0", "90"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    assert "90 cases agree" in done.stdout
