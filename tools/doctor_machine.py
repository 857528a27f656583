"""What `bestiary doctor` finds out without PyTorch: Python, packages, processor, memory, disks, limits, clock, locale.

Nothing but the standard library is imported, so that a broken package is a finding and not the end.
"""

import importlib.metadata
import locale
import os
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import bestiary

BATCH_BYTES = 8 * 3 * 800 * 1333  # eight pictures of a detector, as 8-bit numbers
SHARED_BYTES = 4 * 2 * BATCH_BYTES  # four workers hold two such batches each
LEAST_FILES, USUAL_FILES = 256, 1024  # open files
GIB = 1 << 30
OPTIONAL = {"natten": "pip install natten", "wandb": "pip install wandb"}


class Finding(NamedTuple):
    """A line of the check-up."""

    name: str
    status: str  # 'ok', 'note', 'warn': slower or less than it could be, 'fail': training cannot work
    found: str
    advice: str = ""


def look(root: Path = Path("/")) -> list[Finding]:
    """All of it. `root` stands for the machine's own, in tests."""
    return [
        python(),
        *packages(),
        processor(root),
        memory(root),
        *disks(),
        shared_memory(root),
        open_files(),
        *clock(),
        *encoding(),
    ]


def python() -> Finding:
    """The interpreter, against what the package asks for."""
    here = ".".join(map(str, sys.version_info[:3]))
    try:
        wanted = importlib.metadata.metadata("bestiary")["Requires-Python"] or ""
    except importlib.metadata.PackageNotFoundError:
        return Finding(
            "python", "warn", f"{here}; bestiary itself is not installed", "pip install -e . in its checkout"
        )
    if not fits(here, wanted):
        return Finding("python", "fail", f"{here}, bestiary takes {wanted}", "make an environment with such a Python")
    return Finding("python", "ok", here)


def fits(version: str, specifier: str) -> bool:
    """Whether a version is in a range such as `>=3.10,<3.14`; marks of pre-releases and builds are not looked at."""
    here = numbers(version)
    for part in filter(None, (part.strip() for part in specifier.split(","))):
        sign, bound = re.match(r"(>=|<=|==|!=|>|<|~=)?\s*(.+)", part).groups()
        there = numbers(bound)
        size = max(len(here), len(there))
        one, other = (tuple(v) + (0,) * (size - len(v)) for v in (here, there))
        right = {
            ">=": one >= other, "<=": one <= other, "==": one == other, "!=": one != other, ">": one > other,
            "<": one < other, "~=": one >= other and one[: len(there) - 1] == tuple(there)[:-1],
        }.get(sign, True)  # fmt: skip
        if not right:
            return False
    return True


def numbers(version: str) -> tuple[int, ...]:
    """`2.14.1+cu130` -> (2, 14, 1)."""
    return tuple(int(part) for part in re.findall(r"\d+", re.split(r"[+a-zA-Z]", version.strip())[0]))


def installed(name: str) -> str | None:
    """The version of a package, None without it."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def required() -> dict[str, str]:
    """Package: range that this one asks for, of those that it cannot do without."""
    found = {}
    for line in importlib.metadata.requires("bestiary") or ():
        requirement, _, marker = line.partition(";")
        if "extra" not in marker:
            name, specifier = re.match(r"([\w.-]+)\s*(.*)", requirement.strip()).groups()
            found[name] = specifier.strip("() ")
    return found


def tested() -> dict[str, str]:
    """Package: version that the tests ran with, of constraints.txt."""
    path = Path(bestiary.__file__).parent / "constraints.txt"
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    return dict(line.split("==") for line in lines if "==" in line)


def packages() -> list[Finding]:
    """What is missing, out of range, or of another version than the tests ran with."""
    try:
        wanted = required()
    except importlib.metadata.PackageNotFoundError:
        wanted = {}
    found = {name: installed(name) for name in wanted}
    missing = [name for name, version in found.items() if version is None]
    wrong = [f"{name} {v} (it takes {wanted[name]})" for name, v in found.items() if v and not fits(v, wanted[name])]
    findings = []
    if missing:
        findings.append(
            Finding("packages", "fail", f"missing: {', '.join(missing)}", f"pip install {' '.join(missing)}")
        )
    if wrong:
        names = " ".join(f"'{name}{wanted[name]}'" for name in (one.split()[0] for one in wrong))
        findings.append(Finding("packages", "fail", f"out of range: {', '.join(wrong)}", f"pip install {names}"))
    pins = tested()
    main = ("torch", "torchvision", "timm", "mmengine", "mmcv-lite", "mmdet", "mmsegmentation", "numpy")
    here = ", ".join(f"{name} {found.get(name) or installed(name) or 'missing'}" for name in main)
    findings.append(Finding("versions", "ok", here))
    others = {
        name: version for name in pins if (version := installed(name)) and version.partition("+")[0] != pins[name]
    }
    if others:
        words = ", ".join(f"{name} {version} (tests: {pins[name]})" for name, version in others.items())
        advice = "fine as a rule; where something fails: pip install -c constraints.txt bestiary"
        findings.append(Finding("not as tested", "note", words, advice))
    if installed("mmcv") and installed("mmcv-lite"):
        advice = "pip uninstall mmcv mmcv-lite, then install one of them"
        findings.append(Finding("mmcv", "warn", "mmcv and mmcv-lite are both there, in one folder", advice))
    absent = {name: how for name, how in OPTIONAL.items() if installed(name) is None}
    if absent:
        findings.append(Finding("optional", "note", f"not there: {', '.join(absent)}", "; ".join(absent.values())))
    return findings


def processor(root: Path) -> Finding:
    """Cores that may be used, and whether fewer than PyTorch would take threads for are granted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = os.environ.get("OMP_NUM_THREADS")
    words = f"{cores} cores" + (f" of {os.cpu_count()}" if cores != os.cpu_count() else "")
    words += f", OMP_NUM_THREADS={threads}" if threads else ""
    quota = granted_cores(root)
    if quota is not None and quota < cores - 0.5 and int(threads or cores) > quota + 1:
        count = max(1, round(quota))
        advice = f"export OMP_NUM_THREADS={count}: more threads than cores wait for one another"
        return Finding("processor", "warn", f"{words}; the container grants {quota:g}", advice)
    if threads and threads.isdigit() and int(threads) > cores:
        return Finding("processor", "warn", words, f"export OMP_NUM_THREADS={cores}: threads wait for one another")
    return Finding("processor", "ok", words)


def granted_cores(root: Path) -> float | None:
    """Cores of a container's quota, None without one."""
    try:
        if (path := root / "sys/fs/cgroup/cpu.max").exists():
            quota, period = path.read_text().split()
        else:
            folder = root / "sys/fs/cgroup/cpu"
            quota, period = ((folder / f"cpu.cfs_{part}_us").read_text().strip() for part in ("quota", "period"))
        return None if quota in ("max", "-1") else int(quota) / int(period)
    except (OSError, ValueError):
        return None


def memory(root: Path) -> Finding:
    """What is there and what is free, of the machine or of its container."""
    try:
        lines = (line.split() for line in (root / "proc/meminfo").read_text().splitlines())
        known = {line[0].rstrip(":"): int(line[1]) << 10 for line in lines if len(line) > 1}
        total, free = known["MemTotal"], known["MemAvailable"]
    except (OSError, KeyError, ValueError):
        return Finding("memory", "note", "not known on this system")
    words = f"{free / GIB:.1f} of {total / GIB:.1f} GiB free"
    for path in ("sys/fs/cgroup/memory.max", "sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            limit = int((root / path).read_text())
        except (OSError, ValueError):
            continue
        if limit < total:
            free = min(free, limit)
            words += f"; the container may use {limit / GIB:.1f}"
            break
    if free < GIB:
        return Finding(
            "memory", "warn", words, "a detector's step wants some 3 GiB: end other programs, smaller batches"
        )
    return Finding("memory", "ok", words)


def disks() -> list[Finding]:
    """Room where runs, temporary files and compiled kernels go, and whether these can be written."""
    cache = os.environ.get("BESTIARY_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bestiary"
    )
    findings, room = [], {}
    try:
        temporary = tempfile.gettempdir()
    except OSError as error:  # none that can be written
        advice = "set TMPDIR to a folder with room: workers of data loaders and compilers need one"
        return [Finding("disk", "fail", f"no folder for temporary files: {error}", advice)]
    places = {"this folder": os.getcwd(), "temporary files": temporary, "compiled kernels": cache}
    how = {
        "this folder": "runs go to ./work_dirs: start elsewhere, or name a folder by --work-dir",
        "temporary files": "set TMPDIR to a folder with room",
        "compiled kernels": "set BESTIARY_CACHE to a folder that can be written",
    }
    for what, place in places.items():
        folder = nearest(place)
        room[what] = shutil.disk_usage(folder).free
        if not writable(folder):
            findings.append(Finding("disk", "warn", f"{what}: {place} cannot be written", how[what]))
        elif room[what] < GIB:
            words = f"{what}: {room[what] / GIB:.1f} GiB free in {place}"
            findings.append(Finding("disk", "warn", f"{words}; a checkpoint of a detector takes 0.5", how[what]))
    if not findings:
        findings.append(Finding("disk", "ok", ", ".join(f"{what} {free / GIB:.0f} GiB" for what, free in room.items())))
    return findings


def nearest(place: str) -> str:
    """The folder itself, or the one above it that is there."""
    path = Path(place)
    while not path.exists() and path != path.parent:
        path = path.parent
    return str(path)


def writable(folder: str) -> bool:
    """Tried, not asked: permissions alone do not tell of a file system that is read-only or full."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b"x" * 4096)
            file.flush()
        return True
    except OSError:
        return False


def shared_memory(root: Path) -> Finding:
    """/dev/shm, through which workers hand batches over."""
    place = root / "dev/shm"
    if not place.exists():
        if sys.platform != "linux":
            return Finding("shared memory", "ok", "not by /dev/shm on this system")
        return Finding("shared memory", "warn", "there is no /dev/shm", "mount it, or train with num_workers=0")
    usage = shutil.disk_usage(place)
    words = f"/dev/shm has {usage.free / GIB:.2f} of {usage.total / GIB:.2f} GiB free"
    need = f"four workers with batches of eight detection pictures take {SHARED_BYTES / GIB:.2f}"
    if usage.free < SHARED_BYTES:
        advice = "docker run --shm-size=8g (or --ipc=host); or fewer workers: train_dataloader.num_workers=0"
        return Finding("shared memory", "warn", f"{words}; {need}", advice)
    return Finding("shared memory", "ok", words)


def open_files() -> Finding:
    """The limit of files a process may hold open: each tensor that a worker hands over is one."""
    try:
        import resource  # not on every system
    except ImportError:
        return Finding("open files", "ok", "no limit on this system")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = "unlimited" if hard == resource.RLIM_INFINITY else str(hard)
    if soft != resource.RLIM_INFINITY and soft < USUAL_FILES:
        status = "fail" if soft < LEAST_FILES else "warn"
        advice = f"ulimit -n {most}: workers hand every tensor over as an open file"
        return Finding("open files", status, f"at most {soft} (the limit can be raised to {most})", advice)
    return Finding("open files", "ok", "unlimited" if soft == resource.RLIM_INFINITY else f"at most {soft}")


def clock() -> list[Finding]:
    """A clock that is wrong: certificates are refused, and the newest checkpoint is told by its time."""
    now = time.time()
    newest = Path(bestiary.__file__).stat().st_mtime
    if now < newest - 86400:
        words = f"it is {time.strftime('%Y-%m-%d', time.localtime(now))}, before bestiary was installed"
        return [
            Finding("clock", "warn", words, "set it: downloads refuse certificates, the newest checkpoint is missed")
        ]
    try:
        with tempfile.NamedTemporaryFile(dir=os.getcwd()) as file:
            skew = Path(file.name).stat().st_mtime - time.time()
    except OSError:
        return []  # `disks` tells of it
    if abs(skew) > 5:
        words = f"the file server's is {skew:+.0f} s off this machine's"
        return [Finding("clock", "warn", words, "let both follow NTP: the newest checkpoint is told by its time")]
    return []


def encoding() -> list[Finding]:
    """Text that is not UTF-8 by default: mmdet reads annotations in the locale's encoding."""
    found = locale.getpreferredencoding(False)
    if found.lower().replace("-", "") != "utf8" and not sys.flags.utf8_mode:
        words = f"files are read as {found}, not UTF-8"
        return [Finding("locale", "warn", words, "export PYTHONUTF8=1: names of classes and files come out wrong")]
    return []
