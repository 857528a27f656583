"""Tests of compiled code again in a process of their own: another variant of it, or compiled with other flags."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bestiary.kernels import build

RUN = """
import importlib
import sys

import pytest

from bestiary.kernels import build

module, name, tests, selection, *flags = sys.argv[1:]
importlib.import_module(module)  # puts its library into the table
library = build.LIBRARIES[name]
library = library._replace(units=tuple(unit._replace(flags=(*unit.flags, *flags)) for unit in library.units))
build.LIBRARIES[name] = library
if not selection:
    build.build(library)
    raise SystemExit
sys.exit(pytest.main([tests, "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", selection]))
"""
SANITIZERS = {"address": "libasan.so", "undefined": "libubsan.so"}  # the compiler's name for them, and their library


def run(module: str, library: str, tests: Path, selection: str, *flags: str, **environment: str) -> None:
    """The tests of `selection` with `library` of `module` compiled with `flags`; "": compiles it and no more."""
    inherited = {name: value for name, value in os.environ.items() if name != "BESTIARY_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, module, library, str(tests), selection, *flags],
        env=inherited | environment, capture_output=True, text=True, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    told = done.stdout[-6000:] + done.stderr[-6000:]
    assert done.returncode == 0, told
    assert not selection or ("passed" in done.stdout and "skipped" not in done.stdout), told


def _preload(name: str) -> str | None:
    """The path of a library of the compiler's, None where it has none of that name."""
    command = [build.compiler(), f"-print-file-name={name}"]
    found = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return str(found.resolve()) if found.is_absolute() else None


def run_sanitized(sanitizer: str, folder: Path, module: str, library: str, tests: Path, selection: str, **environment):
    """`run` under a sanitizer, best variant and portable one, built in `folder`; skips where the compiler has none."""
    # The C++ library too: the sanitizer looks for it once, when it is loaded, and Python itself needs none.
    preloaded = [_preload(SANITIZERS[sanitizer]), _preload("libstdc++.so.6")]
    if None in preloaded:
        pytest.skip(f"the compiler has no {SANITIZERS[sanitizer]}")
    flags = f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g1"
    environment |= dict(BESTIARY_CACHE=str(folder))
    run(module, library, tests, "", *flags, **environment)  # the compiler is better off without the sanitizer
    for variant in {}, {"BESTIARY_CPU_VARIANT": "portable"}:
        run(
            module, library, tests, selection, *flags, LD_PRELOAD=" ".join(preloaded),
            # Python leaks by design. New memory is filled with ones, NaN in all: what is read unwritten shows.
            ASAN_OPTIONS="detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255",
            UBSAN_OPTIONS="print_stacktrace=1", OMP_NUM_THREADS="2", **environment, **variant,
        )  # fmt: skip
