"""Bi-level routed attention on CPUs: C++ with AVX-512, AVX2 or portable vectors, chosen when the library is loaded."""

import torch

from .. import build
from .arguments import Call

build.add_cpu_library("bi_level_routing_cpu", "bi_level_routing/csrc/cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(call: Call) -> str | None:
    if call.device.type != "cpu":
        return f"it takes CPU tensors, these are on {call.device}"
    if call.dtype not in DTYPES:
        return f"it takes float32, bfloat16 and float16, not {str(call.dtype).removeprefix('torch.')}"
    return "it has no forward-mode derivative" if call.forward_mode else None


def unavailable() -> str | None:
    return build.unavailable("bi_level_routing_cpu")
