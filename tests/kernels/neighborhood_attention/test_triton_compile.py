"""The Triton kernels, compiled ahead of time for GPUs that are not there: they compile, and they do not spill."""

import os
import re

import pytest
import torch
from shares import todays

from bestiary.kernels.neighborhood_attention.triton.tiling import axes_of

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton_compiling import BINARIES, check, compiled  # noqa: E402

pytestmark = [
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter compiles nothing"),
    pytest.mark.skipif(not (BINARIES / "cuobjdump").exists(), reason="this triton brings no cuobjdump"),
]
HEADS = 4


def launch(kernel: str, k: int, channels: int, dtype: torch.dtype, bias: bool, spatial=(14, 14), extra: int = 0):
    """One of the three main kernels as it would be started for a map with kernel size k on every axis."""
    from bestiary.kernels.neighborhood_attention.triton.attention import forward_launch
    from bestiary.kernels.neighborhood_attention.triton.key_gradient import key_gradient_launch
    from bestiary.kernels.neighborhood_attention.triton.query_gradient import bias_partial, query_gradient_launch

    n = len(spatial)
    axes = axes_of(spatial, (k,) * n, (1,) * n, (1,) * n, (False,) * n)
    q = torch.empty(2, *spatial, HEADS, channels, dtype=dtype)
    lse = torch.empty(2, *spatial, HEADS)
    table = torch.empty(HEADS, *[2 * k - 1] * n) if bias else None
    extras = [torch.empty(2, extra, HEADS, channels, dtype=dtype)] * 2 if extra else [None, None]
    if kernel == "forward":
        return forward_launch(q, q, q, table, *extras, axes, 0.1, q, lse)
    if kernel == "key":
        return key_gradient_launch(q, q, q, q, lse, lse, table, axes, 0.1, q, q)
    partial = bias_partial(q, q, axes) if bias else None
    return query_gradient_launch(q, lse, q, q, q, q, lse, table, *extras, axes, 0.1, q, lse, partial)


KERNELS = "forward", "query", "key"
half, bf16, single = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kernel", todays(KERNELS, 3))
def test_main_kernels_do_not_spill(kernel, bias, tmp_path, record_property, monkeypatch):
    """k 7, D 32: all that the released NAT and DiNAT need. Multiplied on tensor cores."""
    code = check(launch(kernel, 7, 32, bf16, bias), 90, tmp_path, record_property, monkeypatch)
    assert re.search(r"\bHGMMA\b", code)


SLOW = [  # k, channels, dtype, bias
    (7, 32, bf16, False), (7, 32, bf16, True),
    (7, 32, half, False), (7, 32, half, True), (11, 32, bf16, False), (11, 32, bf16, True), (13, 32, bf16, False),
    (13, 32, bf16, True), (3, 32, bf16, True), (7, 64, bf16, False), (7, 64, bf16, True), (7, 24, half, False),
    (7, 128, bf16, False), (7, 32, single, False), (7, 32, single, True), (7, 64, single, False),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("k", "channels", "dtype", "bias"), SLOW, ids=str)
@pytest.mark.parametrize("architecture", [80, 90, 100])
@pytest.mark.parametrize("kernel", KERNELS)
def test_other_kernels_do_not_spill(
    kernel, architecture, k, channels, dtype, bias, tmp_path, record_property, monkeypatch
):
    check(launch(kernel, k, channels, dtype, bias), architecture, tmp_path, record_property, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("spatial", [(50,), (6, 8, 10)], ids=str)
@pytest.mark.parametrize("kernel", KERNELS)
def test_one_and_three_axes_with_additional_tokens(kernel, spatial, tmp_path, record_property, monkeypatch):
    check(launch(kernel, 3, 32, bf16, False, spatial, extra=4), 90, tmp_path, record_property, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize(("spatial", "k", "channels"), [((50,), 7, 32), ((6, 8, 10), 5, 64)], ids=str)
@pytest.mark.parametrize("dtype", [bf16, single], ids=str)
@pytest.mark.parametrize("architecture", [80, 90])
def test_small_gradients(architecture, dtype, spatial, k, channels, tmp_path, record_property, monkeypatch):
    """The bias where the query kernel cannot sum it, and the additional tokens."""
    from bestiary.kernels.neighborhood_attention.triton.small_gradients import (
        bias_gradient_launch,
        extra_gradient_launch,
    )

    n = len(spatial)
    axes = axes_of(spatial, (k,) * n, (1,) * n, (1,) * n, (False,) * n)
    q, extra = torch.empty(2, *spatial, 4, channels, dtype=dtype), torch.empty(2, 5, 4, channels, dtype=dtype)
    lse, table, sums = torch.empty(2, *spatial, 4), torch.empty(4, *[2 * k - 1] * n), torch.empty(2, *extra.shape)
    partial = torch.empty(2, table[0].numel(), 4)
    for one in (
        bias_gradient_launch(q, q, q, q, lse, lse, table, axes, 0.1, partial),
        extra_gradient_launch(q, q, lse, lse, extra, extra, axes, 0.1, sums, sums),
    ):
        check(one, architecture, tmp_path, record_property, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kernel", todays(KERNELS, 3))
def test_main_kernels_compile_for_amd(kernel, bias, tmp_path, monkeypatch):
    """MI300. Registers are not judged for the consumer cards, which have half as many."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.version, "hip", "as if")
    code = compiled(launch(kernel, 7, 32, bf16, bias), GPUTarget("hip", "gfx942", 64)).asm["amdgcn"]
    assert re.search(r"\.vgpr_spill_count:\s+0\b", code) and "v_mfma" in code


def test_map_sizes_make_no_new_kernel():
    """What a kernel is compiled for: windows, widths and flags, nothing of the map, the batch or the heads."""
    small, large = (launch("forward", 7, 32, bf16, True, spatial) for spatial in ((7, 9), (200, 334)))
    assert small.constants == large.constants
    integers = {name for name, value in small.arguments.items() if isinstance(value, int)} | {"first_batch"}
    assert integers == {parameter.name for parameter in small.kernel.params if parameter.do_not_specialize} - {"scale"}
