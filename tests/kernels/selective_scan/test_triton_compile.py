"""The scan's Triton kernels, compiled ahead of time for GPUs that are not there: they do not spill."""

import os
import re

import pytest
import torch

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton_compiling import BINARIES, check, compiled  # noqa: E402

pytestmark = [
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter compiles nothing"),
    pytest.mark.skipif(not (BINARIES / "cuobjdump").exists(), reason="this triton brings no cuobjdump"),
]
bf16, single = torch.bfloat16, torch.float32
KERNELS = "forward", "gradient"


def launch(kernel: str, states: int, dtype: torch.dtype, routed: bool, gated: bool, channels=96, length=196):
    """As VMamba and MHS-VM call it, by a table of routes, or as Mamba does: the steps last, with a gate."""
    from bestiary.kernels.selective_scan.triton.gradients import gradient_buffers, gradient_launch
    from bestiary.kernels.selective_scan.triton.scan import forward_launch

    batch, count = 2, 4

    def over_steps(width: int) -> torch.Tensor:
        shape = (batch, length, count, width) if routed else (batch, count, width, length)
        return torch.empty(shape, dtype=dtype)

    wide, narrow = over_steps(channels), over_steps(states)
    A, D = torch.empty(count, channels, states), torch.empty(count, channels)
    z = wide if gated else None
    table = torch.empty(count, length, dtype=torch.int64) if routed else None
    kept = torch.empty(-(-length // 64), batch, count, channels, states)
    options = table, True, not routed, 64
    if kernel == "forward":
        return forward_launch(wide, wide, A, narrow, narrow, D, z, D, None, *options, wide, kept[0], kept)
    found = gradient_buffers(wide, wide, A, narrow, z, not routed, 64)
    return gradient_launch(wide, None, kept, wide, wide, A, narrow, narrow, D, z, D, *options, found)


@pytest.mark.parametrize(
    ("kernel", "states", "architecture"), [("forward", 1, 80), ("forward", 16, 90), ("gradient", 16, 90)]
)
def test_main_kernels_do_not_spill(kernel, states, architecture, tmp_path, record_property, monkeypatch):
    code = check(launch(kernel, states, bf16, True, False), architecture, tmp_path, record_property, monkeypatch)
    # The chain of steps is in registers: what is shuffled are sums over channels alone.
    assert len(re.findall(r"\bSHFL\b", code)) <= (200 if kernel == "gradient" else 32)


SLOW = [(states, dtype, routed, gated) for states in (1, 16) for dtype in (bf16, single)
        for routed, gated in ((True, False), (False, True))]  # fmt: skip
SLOW += [(states, bf16, False, True) for states in (4, 8, 64, 256)]


@pytest.mark.slow
@pytest.mark.parametrize(("states", "dtype", "routed", "gated"), SLOW, ids=str)
@pytest.mark.parametrize("architecture", [80, 90])
@pytest.mark.parametrize("kernel", KERNELS)
def test_other_kernels_do_not_spill(
    kernel, architecture, states, dtype, routed, gated, tmp_path, record_property, monkeypatch
):
    check(launch(kernel, states, dtype, routed, gated), architecture, tmp_path, record_property, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_main_kernels_compile_for_amd(kernel, tmp_path, monkeypatch):
    """MI300."""
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(torch.version, "hip", "as if")
    code = compiled(launch(kernel, 16, bf16, True, False), GPUTarget("hip", "gfx942", 64)).asm["amdgcn"]
    assert re.search(r"\.vgpr_spill_count:\s+0\b", code)


def test_lengths_make_no_new_kernel():
    """What a kernel is compiled for: widths and flags, nothing of the lengths, the batch or the routes."""
    short, long = (launch("gradient", 16, bf16, True, True, length=length) for length in (49, 4096))
    assert short.constants == long.constants
    for one in (short, launch("forward", 16, bf16, True, True)):
        integers = {name for name, value in one.arguments.items() if isinstance(value, int)} | {"first_batch"}
        assert integers == {parameter.name for parameter in one.kernel.params if parameter.do_not_specialize}
