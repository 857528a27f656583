"""Whether Triton can be used on this machine: asked without importing it."""

import os
from importlib.util import find_spec

import torch

DTYPES = (torch.float32, torch.float16, torch.bfloat16)  # that the Triton backends take
FIRST_CAPABILITY = (8, 0)  # of NVIDIA's GPUs, for Triton's compiler


def interpreted() -> bool:
    """Whether Triton's interpreter was asked for. It reads the variable once, when it is imported."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")


def wrong_device(device: torch.device, interpreted: bool) -> str | None:
    """Why tensors on `device` cannot be served, in words; None: they can."""
    if device.type == "cuda" or (device.type == "cpu" and interpreted):
        return None
    hint = " (TRITON_INTERPRET=1 would interpret it there)" if device.type == "cpu" else ""
    return f"it takes CUDA tensors, these are on {device.type}{hint}"


def unavailable(interpreted: bool) -> str | None:
    """Why Triton cannot be used here, in words; None: it can."""
    if find_spec("triton") is None:
        return "the package triton is not installed: pip install triton"
    if interpreted:
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device here (TRITON_INTERPRET=1 would interpret it on the CPU)"
    if torch.version.hip is None and torch.cuda.get_device_capability() < FIRST_CAPABILITY:
        here, needed = (".".join(map(str, c)) for c in (torch.cuda.get_device_capability(), FIRST_CAPABILITY))
        return f"Triton compiles for compute capability {needed} and later, this GPU has {here}"
    return None
