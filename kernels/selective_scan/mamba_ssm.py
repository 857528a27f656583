"""The selective scan by the installed mamba-ssm (https://github.com/state-spaces/mamba), its CUDA kernel.

The package without its CUDA build has a loop in Python alone, and is not used.
"""

import functools
import importlib
import importlib.util

import torch
from torch import Tensor

from ..tensors import wide_dtype
from .arguments import Call

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
MOST_STATES = 256


@functools.cache
def unavailable() -> str | None:
    """Why it cannot be used on this machine, in words; None: it can."""
    if importlib.util.find_spec("mamba_ssm") is None:
        return "mamba-ssm is not installed"
    if importlib.util.find_spec("selective_scan_cuda") is None:
        return "mamba-ssm is installed without its CUDA build (selective_scan_cuda)"
    try:
        importlib.import_module("mamba_ssm.ops.selective_scan_interface")
    except ImportError as error:
        return f"mamba-ssm cannot be imported: {error}"
    return None


def why_not(call: Call) -> str | None:
    """Why it cannot serve this call, in words; None: it can."""
    if torch.compiler.is_compiling():
        return "it cannot be traced by torch.compile"
    if call.device.type != "cuda":
        return f"it takes CUDA tensors, these are on {call.device}"
    if call.dtype not in DTYPES:
        return f"it takes float32, float16 and bfloat16, not {call.dtype}"
    if call.states > MOST_STATES:
        return f"it takes up to {MOST_STATES} states a channel, these are {call.states}"
    if call.initial:
        return "it begins with a state of zero"
    if call.batch * call.length * call.channels == 0:
        return "it takes no empty tensors"
    if call.needs_grad and call.wants_state:
        return "its backward drops the gradient of the last state"
    if call.needs_grad and torch.are_deterministic_algorithms_enabled():
        return "its gradients of B and C are sums in no fixed order"
    return "it takes no part in torch.func's transforms and in forward-mode derivatives" if call.transformed else None


def run(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: None,
) -> tuple[Tensor, Tensor]:
    """As the reference; for calls that `why_not` lets through."""
    scan = importlib.import_module("mamba_ssm.ops.selective_scan_interface").selective_scan_fn
    wide, inner = wide_dtype(u), torch.complex64 if A.is_complex() else torch.float32
    # Its kernel takes one dtype for what changes from step to step, and float32 for the rest.
    B, C = (x.to(u.dtype if x.ndim > 2 else inner) for x in (B, C))
    delta, z = (None if x is None else x.to(u.dtype) for x in (delta, z))
    D, delta_bias = (None if x is None else x.to(wide) for x in (D, delta_bias))
    return scan(u, delta, A.to(inner), B, C, D, z, delta_bias, delta_softplus, True)
