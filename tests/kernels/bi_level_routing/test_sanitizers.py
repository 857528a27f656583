"""The C++ backend's lesser variants, and all of it under the sanitizers, over the tests of test_cpu.py.

Each run is a process of its own: a variant is chosen, and a sanitizer loaded, before anything else.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bestiary.kernels import build
from bestiary.kernels.bi_level_routing import cpu

TESTS = Path(__file__).with_name("test_cpu.py")
NUMBERS = "any_case or threads or packed or lse"  # what runs the kernels on more than a few numbers
RUN = """
import sys

import pytest

import bestiary.kernels.bi_level_routing.cpu  # puts its library into the table
from bestiary.kernels import build

tests, selection, flags = sys.argv[1], sys.argv[2], tuple(sys.argv[3:])
library = build.LIBRARIES["bi_level_routing_cpu"]
library = library._replace(units=tuple(unit._replace(flags=unit.flags + flags) for unit in library.units))
build.LIBRARIES[library.name] = library
if not selection:
    build.build(library)
    raise SystemExit
sys.exit(pytest.main([tests, "-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", selection]))
"""


def run(selection: str, *flags: str, **environment: str) -> None:
    """The tests of `selection` with a library compiled with `flags`; "": compiles it and no more."""
    inherited = {name: value for name, value in os.environ.items() if name != "BESTIARY_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(TESTS), selection, *flags],
        env=inherited | environment, capture_output=True, text=True, cwd=Path(__file__).parents[3],
    )  # fmt: skip
    told = done.stdout[-6000:] + done.stderr[-6000:]
    assert done.returncode == 0, told
    assert not selection or ("passed" in done.stdout and "skipped" not in done.stdout), told


def preload(name: str) -> str | None:
    """The path of a library of the compiler's, None where it has none of that name."""
    command = [build.compiler(), f"-print-file-name={name}"]
    found = Path(subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip())
    return str(found.resolve()) if found.is_absolute() else None


@pytest.mark.parametrize("variant", ["portable", "avx2"])
def test_lesser_variants(variant):
    if reason := cpu.unavailable():
        pytest.skip(reason)
    if variant == "avx2" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    run(NUMBERS, BESTIARY_CPU_VARIANT=variant)


@pytest.mark.slow
@pytest.mark.parametrize(("sanitizer", "runtime"), [("address", "libasan.so"), ("undefined", "libubsan.so")])
def test_sanitizers_find_nothing(sanitizer, runtime, tmp_path):
    if reason := cpu.unavailable():
        pytest.skip(reason)
    # The C++ library too: the sanitizer looks for it once, when it is loaded, and Python itself needs none.
    preloaded = [preload(runtime), preload("libstdc++.so.6")]
    if None in preloaded:
        pytest.skip(f"the compiler has no {runtime}")
    flags = f"-fsanitize={sanitizer}", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g1"
    run("", *flags, BESTIARY_CACHE=str(tmp_path))  # the compiler is better off without the sanitizer
    for variant in {}, {"BESTIARY_CPU_VARIANT": "portable"}:
        run(
            NUMBERS, *flags, BESTIARY_CACHE=str(tmp_path), LD_PRELOAD=" ".join(preloaded),
            # Python leaks by design. New memory is filled with ones, NaN in all: what is read unwritten shows.
            ASAN_OPTIONS="detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255",
            UBSAN_OPTIONS="print_stacktrace=1", OMP_NUM_THREADS="2", **variant,
        )  # fmt: skip
