"""Neighborhood attention in Triton, for GPUs where nothing is compiled; NVIDIA's and AMD's.

Triton itself is imported at the first call, and never where this backend is not used. With TRITON_INTERPRET=1 set
before that, the kernels run on CPU tensors in Triton's interpreter: right, and very slow.
"""

import os
from importlib.util import find_spec

import torch
from torch import Tensor

from ..arguments import Call, refusal

DTYPES = (torch.float32, torch.float16, torch.bfloat16)
FIRST_CAPABILITY = (8, 0)  # of NVIDIA's GPUs, for Triton's compiler


def interpreted() -> bool:
    """Whether Triton's interpreter was asked for. It reads the variable once, when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def why_not(call: Call) -> str | None:
    """Why Triton cannot serve this call, in words; None: it can."""
    if call.device.type == "cpu" and not interpreted():
        return "it takes CUDA tensors, these are on cpu (TRITON_INTERPRET=1 would interpret it there)"
    return refusal(call, ("cuda", "cpu") if interpreted() else ("cuda",), DTYPES)


def unavailable() -> str | None:
    """Why Triton cannot be used on this machine, in words; None: it can."""
    if find_spec("triton") is None:
        return "the package triton is not installed: pip install triton"
    if interpreted():
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device here (TRITON_INTERPRET=1 would interpret it on the CPU)"
    if torch.version.hip is None and torch.cuda.get_device_capability() < FIRST_CAPABILITY:
        here, needed = (".".join(map(str, c)) for c in (torch.cuda.get_device_capability(), FIRST_CAPABILITY))
        return f"Triton compiles for compute capability {needed} and later, this GPU has {here}"
    return None


def forward(*arguments) -> tuple[Tensor, Tensor]:
    """See `attention.forward`; that module imports Triton."""
    from .attention import forward as run

    return run(*arguments)


def backward(*arguments) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `gradients.backward`; that module imports Triton."""
    from .gradients import backward as run

    return run(*arguments)
