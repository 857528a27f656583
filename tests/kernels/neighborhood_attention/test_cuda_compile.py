"""The CUDA kernels through nvcc: they compile, those for 16-bit types spill no registers, the library loads."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shares import one_day_in

from bestiary.kernels import build
from bestiary.kernels.neighborhood_attention import cuda
from bestiary.kernels.neighborhood_attention.arguments import Call
from bestiary.kernels.neighborhood_attention.windows import Window

SOURCES = Path(cuda.__file__).parent / "csrc" / "cuda"
ARCHITECTURES = "sm_80", "sm_90"
needs_nvcc = pytest.mark.skipif(build.cuda_home() is None, reason="there is no nvcc")


def resources(part: str, kind: str, folder: Path) -> dict[tuple[str, str], tuple[int, int]]:
    """(architecture, kernel) to (registers, bytes spilled), of one unit."""
    generate = [flag for arch in ARCHITECTURES for flag in ("-gencode", f"arch=compute_{arch[3:]},code={arch}")]
    command = [
        str(build.cuda_home() / "bin" / "nvcc"),
        "-std=c++20",
        "-O3",
        f"-DNA_TYPE={kind}",
        "-Xptxas",
        "-v",
        *generate,
    ]
    command += ["-c", str(SOURCES / f"{part}.cu"), "-o", str(folder / f"{part}_{kind}.o")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    pattern = (
        r"Compiling entry function '\w*?(na_\w+_kernel)I([^']*)' for '(sm_\d+)'.*?"
        r"(\d+) bytes spill stores, (\d+) bytes spill loads.*?Used (\d+) registers"
    )
    found = {}
    for kernel, suffix, architecture, stores, loads, registers in re.findall(pattern, done.stderr, re.DOTALL):
        width = re.search(r"Li(\d+)E", suffix)
        name = f"{kernel}<{kind}, {width[1]}>" if width else f"{kernel}<{suffix}>"
        found[architecture, name] = int(registers), int(stores) + int(loads)
    return found


def check_spills(part: str, kind: str, folder: Path) -> None:
    found = resources(part, kind, folder)
    for key, (registers, spilled) in sorted(found.items()):
        print(*key, f"{registers} registers, {spilled} bytes spilled")
    kernels = ("na_forward_kernel",) if part == "forward" else ("na_query_gradient_kernel", "na_key_gradient_kernel")
    wanted = {
        (arch, f"{kernel}<{kind}, {width}>")
        for arch in ARCHITECTURES
        for kernel in kernels
        for width in (32, 64, 128, 256)
    }
    assert wanted <= found.keys()
    allowed = 32 if kind == "float" else 0  # the widest float kernels keep a few words aside outside of their loops
    spilling = {key: figures for key, figures in found.items() if figures[1] > allowed}
    assert not spilling, f"registers are spilled: {spilling}"


@needs_nvcc
@one_day_in(4, 11)
def test_the_main_kernel_compiles_without_spills(tmp_path):
    check_spills("forward", "bf16", tmp_path)


@needs_nvcc
@pytest.mark.slow
@pytest.mark.parametrize(
    ("part", "kind"),
    [("forward", "fp16"), ("forward", "float"), ("backward", "bf16"), ("backward", "fp16"), ("backward", "float")],
)
def test_all_kernels_compile_without_spills(part, kind, tmp_path):
    check_spills(part, kind, tmp_path)


@needs_nvcc
@pytest.mark.slow
def test_the_library_is_built_and_loads_without_a_gpu(tmp_path):
    program = (
        "import torch\n"
        "from bestiary.kernels import build\n"
        "from bestiary.kernels.neighborhood_attention import cuda, operators\n"
        "reason = build.unavailable('neighborhood_attention_cuda')\n"
        "assert reason is None, reason\n"
        "for name in ('na_forward', 'na_backward'):\n"
        "    assert torch._C._dispatch_has_kernel_for_dispatch_key('bestiary::' + name, 'CUDA'), name\n"
    )
    environment = os.environ | {"BESTIARY_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr


CALL = Call(
    torch.device("cuda", 0), torch.bfloat16, 1, (8, 8), 2, 2, 32, 32, None, False,
    Window((3, 3), (1, 1), (1, 1), (False, False)), False, False, False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        (dict(device=torch.device("cpu")), "it takes CUDA tensors, these are on cpu"),
        (dict(dtype=torch.float64), "it takes bfloat16, float16 and float32, not torch.float64"),
        (dict(channels=264), "heads are at most 256 channels wide, these have 264"),
        (dict(value_channels=300), "heads are at most 256 channels wide, these have 300"),
        (dict(forward_mode=True), "it has no forward-mode derivative"),
        ({}, None),
    ],
)
def test_it_says_why_not(changes, reason, monkeypatch):
    monkeypatch.setattr(cuda, "_capability", lambda device: (8, 0))
    assert cuda.why_not(CALL._replace(**changes)) == reason


def test_old_processors_and_other_makers_are_refused(monkeypatch):
    monkeypatch.setattr(cuda, "_capability", lambda device: (7, 5))
    assert cuda.why_not(CALL) == "it needs a GPU of compute capability 8.0 or later, cuda:0 has 7.5"
    monkeypatch.setattr(torch.version, "hip", "6.0")
    assert cuda.why_not(CALL) == "it is for NVIDIA GPUs, this is PyTorch for AMD's"


def test_without_a_gpu_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.unavailable() == "there is no CUDA device"
