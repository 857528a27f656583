"""Neighborhood attention in Triton, for GPUs where nothing is compiled; NVIDIA's and AMD's.

Triton itself is imported at the first call, and never where this backend is not used. With TRITON_INTERPRET=1 set
before that, the kernels run on CPU tensors in Triton's interpreter: right, and very slow.
"""

from torch import Tensor

from ... import triton_machine
from ...triton_machine import DTYPES, interpreted
from ..arguments import Call, refusal


def why_not(call: Call) -> str | None:
    """Why Triton cannot serve this call, in words; None: it can."""
    if call.device.type == "cpu" and not interpreted():
        return triton_machine.wrong_device(call.device, False)
    return refusal(call, ("cuda", "cpu") if interpreted() else ("cuda",), DTYPES)


def unavailable() -> str | None:
    """Why Triton cannot be used on this machine, in words; None: it can."""
    return triton_machine.unavailable(interpreted())


def forward(*arguments) -> tuple[Tensor, Tensor]:
    """See `attention.forward`; that module imports Triton."""
    from .attention import forward as run

    return run(*arguments)


def backward(*arguments) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """See `gradients.backward`; that module imports Triton."""
    from .gradients import backward as run

    return run(*arguments)
