"""The selective scan in Triton, for GPUs; NVIDIA's and AMD's.

Triton itself is imported at the first call, and never where this backend is not used. With TRITON_INTERPRET=1 set
before that, the kernels run on CPU tensors in Triton's interpreter: right, and very slow.
"""

from torch import Tensor

from ... import triton_machine
from ...triton_machine import DTYPES, interpreted
from ..arguments import Call

MOST_STATES = 256


def why_not(call: Call) -> str | None:
    """Why Triton cannot serve this call, in words; None: it can."""
    if reason := triton_machine.wrong_device(call.device, interpreted()):
        return reason
    if call.dtype not in DTYPES:
        return f"it takes float32, float16 and bfloat16, not {call.dtype}"
    if call.is_complex:
        return "it takes a real A, this one is complex"
    if call.constant:
        return "it takes a B and a C for each step, (B, N, L) or (B, G, N, L), not constant ones"
    if call.states > MOST_STATES:
        return f"it takes up to {MOST_STATES} states a channel, these are {call.states}"
    return "it has no forward-mode derivative" if call.forward_mode else None


def unavailable() -> str | None:
    """Why Triton cannot be used on this machine, in words; None: it can."""
    return triton_machine.unavailable(interpreted())


def forward(*arguments) -> tuple[Tensor, Tensor, Tensor]:
    """See `scan.forward`; that module imports Triton."""
    from .scan import forward as run

    return run(*arguments)


def backward(*arguments) -> tuple[Tensor, ...]:
    """See `gradients.backward`; that module imports Triton."""
    from .gradients import backward as run

    return run(*arguments)
