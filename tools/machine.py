"""What a measurement was made on: processor, GPU, versions, commit, and what they can do at best."""

import argparse
import functools
import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from typing import Any

import torch

import bestiary
from bestiary.engine.report.environment import commit, cpu_info, processor
from bestiary.errors import InputError
from bestiary.kernels import build, peak

NOT_MEASURED = (
    "out",
    "debug",
    "csv",
    "markdown",
    "plot",
    "plot_width",
    "replay",
    "one",
)  # arguments that say where results go


def record(tool: str, args: argparse.Namespace, device: torch.device, **more: Any) -> dict[str, Any]:
    """What every record of a measurement begins with; of the arguments what was measured, not where it was written."""
    kept = {key: value for key, value in vars(args).items() if value is not None and key not in NOT_MEASURED}
    return {"tool": tool, "arguments": kept, "machine": describe(device), "versions": versions(), **more}


def describe(device: torch.device) -> dict[str, Any]:
    """Processor, cores, vectors, memory, GPU, the time."""
    cpu = cpu_info()
    machine = {
        "cpu": processor(),
        "family": f"{cpu['cpu family']}/{cpu['model']}" if "cpu family" in cpu else "",
        "cores": os.cpu_count(),
        "vectors": torch.backends.cpu.get_cpu_capability(),
        "memory_gb": round(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30, 1),
        "system": f"{platform.system()} {platform.machine()}",
        "when": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        machine["gpu"] = properties.name
        machine["gpu_memory_gb"] = round(properties.total_memory / 2**30, 1)
    return machine


def versions() -> dict[str, str | None]:
    """Of ours, Python, PyTorch, the peers, the compiler; the commit, marked where files differ from it."""
    found: dict[str, str | None] = {
        "bestiary": bestiary.__version__,
        "commit": commit(),
        "python": sys.version.split()[0],
    }
    for name in ("torch", "torchvision", "timm", "triton", "natten"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    found["cuda"] = torch.version.cuda
    compiler = build.compiler()
    done = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False) if compiler else None
    found["compiler"] = done.stdout.splitlines()[0] if done and done.stdout else None
    return found


@functools.cache
def peaks(device: torch.device, threads: int) -> dict[str, Any]:
    """Bytes and float32 operations a second, measured: the operations on CPUs only, where they are a bound."""
    found: dict[str, Any] = {"bytes": peak.copy_bytes(device), "flops": None}
    if device.type == "cpu":
        try:
            found |= peak.peak_flops(threads)._asdict()
        except InputError as error:
            found["flops_not_measured"] = str(error)
    return found
