"""The C++ backend under the address and undefined-behaviour sanitizers, over the tests of test_backends.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bestiary.kernels import build

SANITIZE = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-O1", "-g1")
RUN = """
import sys

import pytest

import bestiary.kernels.neighborhood_attention.cpu  # puts its library into the table
from bestiary.kernels import build

name, flags = "neighborhood_attention_cpu", tuple(sys.argv[2:])
library = build.LIBRARIES[name]
build.LIBRARIES[name] = library._replace(units=tuple(unit._replace(flags=unit.flags + flags) for unit in library.units))
options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "cpu and not networks"]
sys.exit(pytest.main([sys.argv[1], *options]))
"""


def runtime(name: str) -> str | None:
    """The path of a sanitizer's library, which has to be loaded before Python; None where the compiler has none."""
    compiler = build.compiler()
    if compiler is None:
        return None
    done = subprocess.run([compiler, f"-print-file-name={name}"], capture_output=True, text=True, check=True)
    path = Path(done.stdout.strip())
    return str(path.resolve()) if path.is_absolute() and path.exists() else None


@pytest.mark.slow
def test_sanitizers_find_nothing(tmp_path):
    runtimes = [runtime("libasan.so"), runtime("libubsan.so")]
    if None in runtimes:
        pytest.skip("the compiler has no libasan and libubsan")
    environment = os.environ | {
        "LD_PRELOAD": " ".join(runtimes),
        # Python leaks by design. New memory is filled with ones, which are NaN: scratch that is read unwritten shows.
        "ASAN_OPTIONS": "detect_leaks=0:max_malloc_fill_size=1000000000:malloc_fill_byte=255",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "BESTIARY_CACHE": str(tmp_path),
        "OMP_NUM_THREADS": "2",
    }
    environment.pop("BESTIARY_BACKEND", None)
    tests = Path(__file__).with_name("test_backends.py")
    done = subprocess.run(
        [sys.executable, "-c", RUN, str(tests), *SANITIZE], env=environment, capture_output=True, text=True,
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    told = done.stdout[-5000:] + done.stderr[-5000:]
    assert done.returncode == 0, told
    assert "passed" in done.stdout and "skipped" not in done.stdout, told
    assert list(tmp_path.glob("kernels/neighborhood_attention_cpu-*/*.so"))
