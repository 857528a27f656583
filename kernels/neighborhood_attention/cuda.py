"""Neighborhood attention on NVIDIA GPUs in CUDA C++: tensor cores for 16-bit types, plain float32 products otherwise.

Forward and backward of every window, with bias, additional tokens and grouped heads, for sm_80 and later. The kernels
are in csrc/cuda (`plan.h` says how they are alike); the tests run them on the CPU. Float32 is exact: TF32 is not used.

A query that sees a NaN or an infinity in a value gets NaN in all channels of its output; others are not touched by it.
"""

import torch

from .. import build
from .arguments import Call, refusal

_FOLDER = "neighborhood_attention/csrc/cuda"
# Machine code for these; newer processors compile the last one's PTX when the library is loaded.
ARCHITECTURES = ("arch=compute_80,code=sm_80", "arch=compute_90,code=[sm_90,compute_90]")
_NVCC = tuple(flag for architecture in ARCHITECTURES for flag in ("-gencode", architecture))
build.LIBRARIES["neighborhood_attention_cuda"] = build.Library(
    "neighborhood_attention_cuda",
    units=(
        *(  # the slowest first
            build.Unit(f"{_FOLDER}/{part}.cu", (f"-DNA_TYPE={kind}", *_NVCC), f"{part}_{kind}")
            for part in ("backward", "forward")
            for kind in ("bf16", "fp16", "float")
        ),
        build.Unit(f"{_FOLDER}/launch.cu", _NVCC),
        build.Unit(f"{_FOLDER}/na_cuda_binding.cpp"),
    ),
    depends=(f"{_FOLDER}/*.cuh", f"{_FOLDER}/*.h"),
    needs_nvcc=True,
)
DTYPES = (torch.bfloat16, torch.float16, torch.float32)
MOST_CHANNELS = 256


def why_not(call: Call) -> str | None:
    if reason := refusal(call, ("cuda",), DTYPES):
        return reason
    if torch.version.hip is not None:
        return "it is for NVIDIA GPUs, this is PyTorch for AMD's"
    if (widest := max(call.channels, call.value_channels)) > MOST_CHANNELS:
        return f"heads are at most {MOST_CHANNELS} channels wide, these have {widest}"
    if (capability := _capability(call.device)) < (8, 0):
        return f"it needs a GPU of compute capability 8.0 or later, {call.device} has {capability[0]}.{capability[1]}"
    return None


@torch.compiler.assume_constant_result  # torch.compile does not trace into it
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def unavailable() -> str | None:
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    return build.unavailable("neighborhood_attention_cuda")
