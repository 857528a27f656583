"""Routed attention's Triton kernels, compiled ahead of time for GPUs that are not there: they do not spill."""

import os
import re

import pytest
import torch
from shares import todays

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton_compiling import BINARIES, check, compiled  # noqa: E402

pytestmark = [
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter compiles nothing"),
    pytest.mark.skipif(not (BINARIES / "cuobjdump").exists(), reason="this triton brings no cuobjdump"),
]
half, bf16, single = torch.float16, torch.bfloat16, torch.float32
KERNELS = "forward", "query", "key"


def launch(kernel: str, side: int, dtype: torch.dtype, soft=False, masked=False, channels=32, n_win=7, topk=4):
    """For regions of side x side tokens, as BiFormer has them: 8, 4 and 2 a side at 224, with `lepe`."""
    from bestiary.kernels.bi_level_routing.triton.attention import forward_launch
    from bestiary.kernels.bi_level_routing.triton.gradients import key_gradient_launch, query_gradient_launch

    q = torch.empty(2, n_win * side, n_win * side, 4, channels, dtype=dtype)
    index = torch.zeros(2, n_win**2, topk, dtype=torch.int64)
    mask = torch.ones(q.shape[:3], dtype=torch.bool) if masked else None
    weights = torch.empty(index.shape) if soft else None
    rows, options = torch.empty(3, *q.shape[:-1]), (mask, index, weights, (n_win, n_win), 0.1)
    if kernel == "forward":
        return forward_launch(q, q, q, q, *options, q, rows[0])
    if kernel == "query":
        return query_gradient_launch(q, q, q, q, rows, *options, q)
    return key_gradient_launch(q, q, q, q, rows, *options, q, q)


@pytest.mark.parametrize("side", [8, 4])
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("kernel", todays(KERNELS, 3))
def test_main_kernels_do_not_spill(kernel, architecture, side, tmp_path, record_property, monkeypatch):
    code = check(launch(kernel, side, bf16), architecture, tmp_path, record_property, monkeypatch)
    assert re.search(r"\bHG?MMA\b", code)  # on tensor cores


SLOW = [  # side, dtype, soft, masked, channels
    (8, half, False, False, 32), (8, bf16, True, True, 32), (4, bf16, True, True, 32), (8, single, False, False, 32),
    (4, single, False, False, 32), (8, single, True, True, 32), (8, bf16, False, True, 64), (4, bf16, True, False, 64),
    (8, bf16, False, False, 128), (8, single, False, False, 64), (4, half, False, False, 24),
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize(("side", "dtype", "soft", "masked", "channels"), SLOW, ids=str)
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("kernel", KERNELS)
def test_other_kernels_hardly_spill(
    kernel, architecture, side, dtype, soft, masked, channels, tmp_path, record_property, monkeypatch
):
    one = launch(kernel, side, dtype, soft, masked, channels)
    check(one, architecture, tmp_path, record_property, monkeypatch, budget=16)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", todays(KERNELS, 3))
def test_main_kernels_compile_for_amd(kernel, tmp_path, monkeypatch):
    """MI300."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.version, "hip", "as if")
    code = compiled(launch(kernel, 8, bf16), GPUTarget("hip", "gfx942", 64)).asm["amdgcn"]
    assert re.search(r"\.vgpr_spill_count:\s+0\b", code) and "v_mfma" in code


@pytest.mark.parametrize("kernel", KERNELS)
def test_map_sizes_make_no_new_kernel(kernel):
    """What a kernel is compiled for: tiles, widths and flags, nothing of the map, the grid, topk or the heads."""
    small, large = (launch(kernel, 8, bf16, n_win=n_win, topk=topk) for n_win, topk in ((7, 1), (16, 9)))
    assert small.constants == large.constants
    integers = {name for name, value in small.arguments.items() if isinstance(value, int)} | {"first_batch"}
    assert integers == {parameter.name for parameter in small.kernel.params if parameter.do_not_specialize}
