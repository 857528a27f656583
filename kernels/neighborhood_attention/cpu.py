"""Neighborhood attention on CPUs: C++ with AVX-512, AVX2 or portable vectors, chosen when the library is loaded."""

import torch

from .. import build
from .arguments import Call, refusal

build.add_cpu_library("neighborhood_attention_cpu", "neighborhood_attention/csrc/cpu")
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def why_not(call: Call) -> str | None:
    return refusal(call, ("cpu",), DTYPES)


def unavailable() -> str | None:
    return build.unavailable("neighborhood_attention_cpu")
