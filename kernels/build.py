"""Compiles the C++ and CUDA sources of the kernels, once, into a cache: `python -m bestiary.kernels.build [NAME ...]`.

A library is compiled at its first use, or ahead of time by this command. The cache lies in $BESTIARY_CACHE, or
~/.cache/bestiary; a build is found again by its sources, flags, compiler and PyTorch. Processes that want the same
build at the same time wait for one of them.
"""

import argparse
import contextlib
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import torch

from ..errors import InputError

HERE = Path(__file__).parent
# The backends have imported this file by the time that `python -m` runs it; that is meant, and it warns of it in what
# is not a package. The second copy does nothing but call the first (see the end of the file).
__path__: list[str] = []
logger = logging.getLogger("bestiary.kernels")

# The oldest PyTorch whose stable C interface the libraries are compiled against (2.10): newer calls do not compile.
STABLE_TARGET = "0x020a000000000000"


class Unit(NamedTuple):
    """One source file, compiled with flags of its own."""

    source: str  # path below this folder
    flags: tuple[str, ...] = ()
    name: str = ""  # of the object file, where one source is compiled more than once


class Library(NamedTuple):
    """A shared library that registers kernels with PyTorch when it is loaded."""

    name: str
    units: tuple[Unit, ...]
    depends: tuple[str, ...] = ()  # globs below this folder of what the sources include
    needs_nvcc: bool = False


NOT_YET = "not compiled yet, which happens at its first use"
_may_compile = True

LIBRARIES: dict[str, Library] = {}  # each operator's backends put theirs here

CPU_VARIANTS = {  # a library asks the processor at its first call which of them it can run (csrc/cpu/variant.h)
    "avx512": ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"),
    "avx2": ("-mavx2", "-mfma"),
    "portable": (),
}


def add_cpu_library(name: str, folder: str) -> None:
    """Put a library into the table: binding.cpp of `folder` (below this one), and kernels.cpp once for each variant."""
    kernels = (
        Unit(f"{folder}/kernels.cpp", (f"-DVARIANT={variant}", "-Wno-psabi", *flags), variant)
        for variant, flags in CPU_VARIANTS.items()
    )
    LIBRARIES[name] = Library(name, (Unit(f"{folder}/binding.cpp"), *kernels), (f"{folder}/*.h", "csrc/cpu/*.h"))


def cache_folder() -> Path:
    """Where builds and tunings are kept."""
    home = os.environ.get("BESTIARY_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "bestiary"
    )
    return Path(home)


def compiler() -> str | None:
    """The C++ compiler: $CXX where that is set, else c++, g++ or clang++; None without one."""
    wanted = os.environ.get("CXX")
    for name in (wanted,) if wanted else ("c++", "g++", "clang++"):
        if found := shutil.which(name):
            return found
    return None


def cuda_home() -> Path | None:
    """The root of the CUDA toolkit that nvcc belongs to, links followed; None without one."""
    if home := os.environ.get("CUDA_HOME"):
        return Path(home) if (Path(home) / "bin" / "nvcc").exists() else None
    nvcc = shutil.which("nvcc")
    return Path(nvcc).resolve().parents[1] if nvcc else None


@functools.cache
def _version(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout


def missing_tool(library: Library) -> str | None:
    """What this machine lacks to compile `library`, None if nothing."""
    if sys.platform != "linux":
        return f"compiled kernels are built on Linux only, this is {sys.platform}"
    if compiler() is None:
        wanted = os.environ.get("CXX")
        return f"CXX is {wanted!r}, no such program" if wanted else "there is no C++ compiler: install g++, or set CXX"
    if library.needs_nvcc and cuda_home() is None:
        return "there is no nvcc: install the CUDA toolkit, or set CUDA_HOME"
    return None


def _commands(library: Library, out: Path) -> tuple[list[list[str]], list[str]]:
    """Commands that make the objects, which may run at the same time, and the one that links them into `out`."""
    pytorch = Path(torch.__file__).parent
    includes, folders = [f"-I{pytorch / 'include'}"], [str(pytorch / "lib")]
    home = cuda_home()
    if library.needs_nvcc and home is not None:
        includes += [f"-I{home / 'include'}"]
        folders += [str(home / "lib64"), str(home / "lib")]
    compile_commands, objects = [], []
    for unit in library.units:
        source = HERE / unit.source
        built = out.parent / f"{unit.name or source.stem}.o"
        objects.append(str(built))
        if source.suffix == ".cu":
            command = [str(home / "bin" / "nvcc"), "-std=c++20", "-O3", "-Xcompiler", "-fPIC"]
        else:
            # Errno and traps are not looked at; NaN and infinity keep their meaning, and nothing is reassociated.
            command = [str(compiler()), "-std=c++20", "-O3", "-fPIC", "-fno-math-errno", "-fno-trapping-math"]
            command += [f"-DTORCH_TARGET_VERSION={STABLE_TARGET}", *includes]
        compile_commands.append([*command, *unit.flags, "-c", str(source), "-o", str(built)])
    # nvcc knows where its runtime library lies (linked statically), even where it is a script that starts another nvcc.
    linker = str(home / "bin" / "nvcc") if library.needs_nvcc and home is not None else str(compiler())
    link = [linker, "-shared", *objects, "-o", str(out), *(f"-L{path}" for path in folders)]
    link += ["-ltorch", "-ltorch_cpu", "-lc10"]
    if library.needs_nvcc:
        link += ["-ltorch_cuda", "-lc10_cuda"]
    return compile_commands, link


def _key(library: Library) -> str:
    digest = hashlib.sha256()
    commands, link = _commands(library, Path("out") / "library.so")
    for part in (torch.__version__, platform.machine(), _version(str(compiler())), repr(commands), repr(link)):
        # Another checkout, or another environment with the same PyTorch, finds the same build.
        digest.update(part.replace(str(HERE), "").replace(str(Path(torch.__file__).parent), "").encode())
    if library.needs_nvcc:
        digest.update(_version(str(cuda_home() / "bin" / "nvcc")).encode())
    files = {HERE / unit.source for unit in library.units}
    files |= {path for pattern in library.depends for path in HERE.glob(pattern)}
    for path in sorted(files):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def library_path(library: Library) -> Path:
    """Where the build of `library` for this machine lies or would lie."""
    return cache_folder() / "kernels" / f"{library.name}-{_key(library)}" / f"{library.name}.so"


def build(library: Library) -> Path:
    """Compile `library` unless that was done; its path.

    Raises:
        InputError: no compiler, or the compiler failed (its first error lines are in the message).
    """
    if reason := missing_tool(library):
        raise InputError(f"{library.name}: {reason}")
    path = library_path(library)
    if path.exists():
        return path
    if not _may_compile:
        raise InputError(f"{library.name}: {NOT_YET}")
    import fcntl  # not on every system, and `missing_tool` has seen to that

    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path.parent / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # given back by the system if this process dies
        except BlockingIOError:
            logger.warning("waiting for the process that compiles %s", library.name)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if path.exists():
            return path
        logger.warning("compiling %s, once: %s", library.name, path)
        start = time.perf_counter()
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            built = Path(folder) / path.name
            compile_commands, link = _commands(library, built)
            with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
                list(pool.map(functools.partial(_run, library.name), compile_commands))
            _run(library.name, link)
            os.replace(built, path)  # whole or not at all
        logger.warning("compiled %s in %.0f s", library.name, time.perf_counter() - start)
    return path


def _run(name: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if "error" in line] or done.stderr.splitlines()
        raise InputError(f"{name}: the compiler failed: {' | '.join(errors[:3])} (command: {' '.join(command)})")


@functools.cache
def unavailable(name: str) -> str | None:
    """Load the library `name`, compiling it first where that is needed; why that cannot be, None when it is loaded.

    The answer stands for the life of the process, and a failed build is told once.
    """
    library = LIBRARIES[name]
    try:
        torch.ops.load_library(str(build(library)))
    except (InputError, OSError) as error:
        logger.warning("%s is not used: %s", name, error)
        return str(error)
    return None


@contextlib.contextmanager
def without_compiling() -> Iterator[None]:
    """Inside the `with` block a library that no cache has is unavailable, for the reason `NOT_YET`."""
    global _may_compile
    before, _may_compile = _may_compile, False
    unavailable.cache_clear()
    try:
        yield
    finally:
        _may_compile = before
        unavailable.cache_clear()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bestiary.kernels.build", description=__doc__.splitlines()[0])
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"all that this machine can build, or of {', '.join(LIBRARIES)}"
    )
    names = parser.parse_args(argv).names
    for name in names:
        if name not in LIBRARIES:
            parser.error(f"no library {name!r}; there are {', '.join(LIBRARIES)}")
    failed = False
    for name in names or LIBRARIES:
        reason = missing_tool(LIBRARIES[name])
        if reason and not names:
            print(f"{name}: left out, {reason}")
            continue
        try:
            print(f"{name}: {build(LIBRARIES[name])}")
        except (InputError, OSError) as error:  # OSError: the cache cannot be written to
            print(error, file=sys.stderr)
            failed = True
    return int(failed)


if __name__ == "__main__":
    from . import build as this_module  # `python -m` made a second copy, whose table is empty

    sys.exit(this_module.main())
