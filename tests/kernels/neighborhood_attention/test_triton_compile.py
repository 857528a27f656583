"""The Triton kernels, compiled ahead of time for GPUs that are not there: they compile, and they do not spill."""

import os
import re
import subprocess
from pathlib import Path

import pytest
import torch

from bestiary.kernels.neighborhood_attention.triton.tiling import axes_of

triton = pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
pytestmark = [
    pytest.mark.skipif("TRITON_INTERPRET" in os.environ, reason="the interpreter compiles nothing"),
    pytest.mark.skipif(not (BINARIES / "cuobjdump").exists(), reason="this triton brings no cuobjdump"),
]
POINTERS = {torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16"}
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


def compiled(one, target: GPUTarget):
    """The kernel of a launch, compiled as Triton's own launcher would for aligned tensors."""
    given = {**one.arguments, "first_batch": 0}
    signature, attributes, constants = {}, {}, {}
    for place, parameter in enumerate(one.kernel.params):
        if parameter.name in one.constants:
            signature[parameter.name], constants[(place,)] = "constexpr", one.constants[parameter.name]
        elif isinstance(given[parameter.name], torch.Tensor):
            signature[parameter.name] = POINTERS[given[parameter.name].dtype]
            attributes[(place,)] = [["tt.divisibility", 16]]
        else:
            signature[parameter.name] = "fp32" if isinstance(given[parameter.name], float) else "i32"
    source = ASTSource(one.kernel, signature, constants, attributes)
    options = {"num_warps": one.warps, "num_stages": one.stages}
    return triton.compile(source, target=target, options=options)


def resources(binary: bytes, folder: Path) -> tuple[int, int, str]:
    """Registers a thread, bytes of stack (spills), and the machine code in words."""
    file = folder / "kernel.cubin"
    file.write_bytes(binary)

    def ask(option: str) -> str:
        command = [BINARIES / "cuobjdump", option, file]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    usage, code = ask("-res-usage"), ask("-sass")
    return int(re.search(r"REG:(\d+)", usage)[1]), int(re.search(r"STACK:(\d+)", usage)[1]), code


def check(one, architecture: int, tmp_path: Path, record_property, monkeypatch) -> str:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "cache"))
    binary = compiled(one, GPUTarget("cuda", architecture, 32))
    registers, stack, code = resources(binary.asm["cubin"], tmp_path)
    record_property("registers", registers)
    record_property("stack", stack)
    print(f"{one.kernel.fn.__name__} sm_{architecture}: {registers} registers, {stack} bytes of stack")
    assert stack == 0 and not re.search(r"\b(LDL|STL)\b", code), f"{registers} registers and {stack} bytes spilled"
    assert binary.metadata.shared <= 99 * 1024  # what every GPU since sm_80 has for one block
    return code


KERNELS = "forward", "query", "key"
half, bf16, single = torch.float16, torch.bfloat16, torch.float32


@pytest.mark.parametrize("bias", [False, True], ids=["plain", "bias"])
@pytest.mark.parametrize("kernel", KERNELS)
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
@pytest.mark.parametrize("kernel", KERNELS)
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
