"""The selective scan on CPUs: C++ with AVX-512, AVX2 or portable vectors, chosen when the library is loaded."""

from .. import build
from .arguments import Call

build.add_cpu_library("selective_scan_cpu", "selective_scan/csrc/cpu")


def why_not(call: Call) -> str | None:
    """Why this backend cannot serve `call`, None if it can."""
    if call.device.type != "cpu":
        return f"it takes CPU tensors, these are on {call.device}"
    if call.is_complex:
        return "it takes a real A, this one is complex"
    if call.constant:
        return "it takes a B and a C for each step, (B, N, L) or (B, G, N, L), not constant ones"
    return "it has no forward-mode derivative" if call.forward_mode else None


def unavailable() -> str | None:
    """Why it cannot run on this machine, None if it can."""
    return build.unavailable("selective_scan_cpu")
