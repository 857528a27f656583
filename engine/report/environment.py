"""What a run was made with: command, machine, versions, commit; and whether its process still lives."""

import importlib.metadata
import os
import platform
import resource
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "bestiary",
    "torch",
    "torchvision",
    "timm",
    "mmengine",
    "mmcv-lite",
    "mmcv",
    "mmdet",
    "mmsegmentation",
    "numpy",
)
HOME = Path(__file__).resolve().parents[2]


def describe() -> dict[str, Any]:
    """Command, machine and versions, as words a person reads."""
    return {"command": command(), "machine": machine(), "versions": versions()}


def command() -> str:
    """The command line, so that a shell takes it; the tool's name instead of its path."""
    program = Path(sys.argv[0])
    first = ["bestiary"] if program.stem in ("cli", "bestiary") else ["python", sys.argv[0]]
    return shlex.join([*first, *sys.argv[1:]])


def machine() -> dict[str, str]:
    """Processor, memory, accelerator, system."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
    found = {
        "processor": f"{processor()}, {len(os.sched_getaffinity(0))} cores",
        "memory": f"{memory:.1f} GiB",
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(torch.cuda.current_device())
        count = torch.cuda.device_count()
        found["accelerator"] = f"{count} x {properties.name}, {properties.total_memory / 2**30:.0f} GiB each"
    return found


def cpu_info() -> dict[str, str]:
    """The first processor's entries of /proc/cpuinfo; nothing on other systems."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text().split("\n\n")[0].splitlines() if path.exists() else []
    return {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}


def processor() -> str:
    """Its name."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Of ours with its commit, of Python and of the packages that are installed."""
    found = {"Python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if name == "bestiary" and (there := commit()):
            found[name] += f" at {there[:12]}{there[40:]}"
    if torch.version.cuda:
        found["CUDA"] = torch.version.cuda
    return found


def commit() -> str | None:
    """Of the checkout that the package lies in, whole, `and changes` where files differ; None where it lies in none."""
    if not (HOME / ".git").exists():
        return None
    git = ["git", "-C", str(HOME)]
    try:
        head = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True)
        status = [*git, "status", "--porcelain", "--untracked-files=no"]
        changed = subprocess.run(status, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return head.stdout.strip() + (" and changes" if changed.stdout.strip() else "")


def memory() -> dict[str, int]:
    """Bytes at the most so far: `process`, `workers` (the largest one that has ended), `gpu` (allocated by PyTorch)."""
    # Linux counts in KiB, macOS in bytes.
    unit = 1 if sys.platform == "darwin" else 1024
    found = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.max_memory_allocated()
    return found


def identity(pid: int | None = None) -> dict[str, Any] | None:
    """What tells a process from all others: its number, when it began, in which start of the machine.

    None where there is no such process, or where the system does not say.
    """
    pid = os.getpid() if pid is None else pid
    try:
        # The name, in brackets, may hold anything; the fields follow it. The 22nd is the start.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return None
    return None if fields[0] == "Z" else {"pid": pid, "began": int(fields[19]), "boot": boot}


def lives(known: dict[str, Any] | None) -> bool | None:
    """Whether the process of `identity` is there; None if this machine cannot know: it ran on another, or before."""
    here = identity()
    if known is None or here is None or known["boot"] != here["boot"]:
        return None
    return identity(known["pid"]) == known
