"""Neighborhood attention by the installed NATTEN (https://natten.org), version 0.21 or later.

Its GPU kernels come with its compiled part, libnatten. Without that it has FlexAttention alone, which it runs
uncompiled: all scores of a map at once, no backward on CPUs.
"""

import functools
import importlib
import importlib.metadata
import re

import torch
from torch import Tensor

from .arguments import Call, refusal
from .windows import Window

OLDEST = (0, 21)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


@functools.cache
def unavailable() -> str | None:
    try:
        version = importlib.metadata.version("natten")
    except importlib.metadata.PackageNotFoundError:
        return "NATTEN is not installed: pip install natten"
    if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
        return f"it needs NATTEN {'.'.join(map(str, OLDEST))} or later, installed is {version}"
    try:
        importlib.import_module("natten")
    except ImportError as error:
        return f"NATTEN {version} cannot be imported: {error}"
    return None


@functools.cache
def has_library() -> bool:
    """NATTEN is installed with its compiled kernels."""
    return unavailable() is None and bool(getattr(importlib.import_module("natten"), "HAS_LIBNATTEN", False))


@torch.compiler.assume_constant_result
def _architecture(index: int | None) -> int:
    major, minor = torch.cuda.get_device_capability(index)
    return 10 * major + minor


@torch.compiler.assume_constant_result
def library_for(device_type: str) -> bool:
    return device_type == "cuda" and torch.version.hip is None and has_library()


def why_not(call: Call) -> str | None:
    if torch.compiler.is_compiling():
        return "it cannot be traced by torch.compile"
    if reason := refusal(call, ("cpu", "cuda"), DTYPES, empty=False):
        return reason
    if call.has_bias:
        return "NATTEN has no rel_pos_bias since 0.20"
    if min(call.window.kernel_size) < 2:
        return f"it takes kernel sizes from 2, got {call.window.kernel_size}"
    if call.additional == 0:
        return "it takes additional tokens, but not 0 of them"
    if call.needs_grad and call.wants_lse:
        return "its backward drops the gradient of the LSE"
    if call.needs_grad and call.additional is not None and not call.covers_everything:
        return "its backward with additional tokens overwrites what a second one through the same graph would need"
    if library_for(call.device.type):
        return None if kernel(call) else _no_kernel(call)
    return _flex_reason(call)


def kernel(call: Call) -> str | None:
    """The kernel of libnatten that serves `call`, None if there is none."""
    architecture, d, e = _architecture(call.device.index), call.channels, call.value_channels
    half = call.dtype != torch.float32
    deterministic = call.needs_grad and torch.are_deterministic_algorithms_enabled()
    if architecture in (100, 103) and half and d == e and d % 8 == 0 and d <= 128 and not deterministic:
        return "blackwell-fna"
    widths = (32, 64, 128) if call.needs_grad else (32, 64, 128, 256)
    if architecture == 90 and half and d == e and d in widths and not deterministic:
        return "hopper-fna"
    oldest = 80 if call.dtype == torch.bfloat16 else 60
    return "cutlass-fna" if architecture >= oldest and d % 8 == 0 and e % 8 == 0 else None


def _no_kernel(call: Call) -> str:
    return (
        f"libnatten has no kernel for {call.dtype} with {call.channels} and {call.value_channels} channels a head "
        f"on sm_{_architecture(call.device.index)}"
    )


def _flex_reason(call: Call) -> str | None:
    here = "without libnatten NATTEN has FlexAttention alone, which"
    if call.needs_grad and call.device.type == "cpu":
        return f"{here} has no backward on CPUs"
    if call.channels != call.value_channels:
        return f"{here} takes values as wide as keys, got {call.channels} and {call.value_channels} channels"
    if call.channels & (call.channels - 1) or not 8 <= call.channels <= 512:
        return f"{here} takes powers of two from 8 to 512 as channels a head, got {call.channels}"
    if call.additional is None and len(call.spatial) == 1 and call.window.is_causal[0]:
        if call.window.kernel_size[0] == call.spatial[0]:
            return f"{here} takes no causal sequence with kernel_size equal to its length"
    return None


def run(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_bias: None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    window: Window,
    scale: float,
    return_lse: bool = False,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """As the reference; for calls that `why_not` lets through. `backend`: a kernel of NATTEN, None: it chooses."""
    functional = importlib.import_module("natten.functional")
    if scale == 0.0:  # NATTEN would take its default instead
        query, scale = query * 0.0, 1.0
    if not torch.is_grad_enabled():  # NATTEN and FlexAttention ask for requires_grad alone
        query, key, value = query.detach(), key.detach(), value.detach()
        if additional_keys is not None and additional_values is not None:
            additional_keys, additional_values = additional_keys.detach(), additional_values.detach()
    attention = (functional.na1d, functional.na2d, functional.na3d)[len(window.kernel_size) - 1]
    out, lse = attention(
        query, key, value, *window[:3], is_causal=window.is_causal, scale=scale,
        additional_keys=additional_keys, additional_values=additional_values, return_lse=True, backend=backend,
    )  # fmt: skip
    return out.contiguous(), lse.float().contiguous()
