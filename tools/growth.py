"""Memory that a piece of work takes at most: of the process on CPUs, of PyTorch's allocator on GPUs."""

import ctypes
import gc
from pathlib import Path

import torch

from bestiary.errors import InputError


def _resident(field: str) -> int:
    """A figure of /proc/self/status in bytes: VmRSS now, VmHWM at most since the last reset."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) << 10
    raise InputError(f"/proc/self/status has no {field}: memory is measured on Linux")


def free_unused() -> None:
    """Give back what was freed and the C library keeps: work that takes it again would not seem to grow."""
    gc.collect()
    if hasattr(library := ctypes.CDLL(None), "malloc_trim"):  # glibc
        library.malloc_trim(0)


class Growth:
    """Bytes at most inside the `with` block, less those before it."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.bytes = device, 0

    def __enter__(self) -> "Growth":
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            torch.cuda.reset_peak_memory_stats(self.device)
            self.before = torch.cuda.memory_allocated(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the mark of the most memory falls back to what is in use
            self.before = _resident("VmRSS")
        return self

    def __exit__(self, *_) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
            self.bytes = torch.cuda.max_memory_allocated(self.device) - self.before
        else:
            self.bytes = _resident("VmHWM") - self.before
