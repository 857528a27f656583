"""Bi-level routed attention in Triton, for GPUs; NVIDIA's and AMD's.

Triton itself is imported at the first call, and never where this backend is not used. With TRITON_INTERPRET=1 set
before that, the kernels run on CPU tensors in Triton's interpreter: right, and very slow.
"""

from torch import Tensor

from ... import triton_machine
from ...triton_machine import DTYPES, interpreted
from ..arguments import Call


def why_not(call: Call) -> str | None:
    """Why Triton cannot serve this call, in words; None: it can."""
    if reason := triton_machine.wrong_device(call.device, interpreted()):
        return reason
    if call.dtype not in DTYPES:
        return f"it takes float32, float16 and bfloat16, not {call.dtype}"
    return "it has no forward-mode derivative" if call.forward_mode else None


def unavailable() -> str | None:
    """Why Triton cannot be used on this machine, in words; None: it can."""
    return triton_machine.unavailable(interpreted())


def forward(*arguments) -> tuple[Tensor, Tensor]:
    """See `attention.forward`; that module imports Triton."""
    from .attention import forward as run

    return run(*arguments)


def backward(*arguments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `gradients.backward`; that module imports Triton."""
    from .gradients import backward as run

    return run(*arguments)
