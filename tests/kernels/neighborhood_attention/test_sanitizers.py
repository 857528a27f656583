"""The C++ backend's lesser variants, and all of it under the sanitizers, over the tests of test_backends.py.

Each run is a process of its own: a variant is chosen, and a sanitizer loaded, before anything else.
"""

from pathlib import Path

import pytest
from recompiled import run, run_sanitized

from bestiary.kernels.neighborhood_attention import cpu

LIBRARY = "bestiary.kernels.neighborhood_attention.cpu", "neighborhood_attention_cpu"
TESTS = Path(__file__).with_name("test_backends.py")


@pytest.mark.parametrize("share", [24, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", ["portable", pytest.param("avx2", marks=pytest.mark.slow)])
def test_lesser_variants(variant, share):
    if reason := cpu.unavailable():
        pytest.skip(reason)
    if variant == "avx2" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    selection = "cpu and not networks" if share == 1 else "cpu and random"
    run(*LIBRARY, TESTS, selection, BESTIARY_CPU_VARIANT=variant, BESTIARY_TEST_SHARE=str(share))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", ["address", "undefined"])
def test_sanitizers_find_nothing(sanitizer, tmp_path):
    if reason := cpu.unavailable():
        pytest.skip(reason)
    run_sanitized(sanitizer, tmp_path, *LIBRARY, TESTS, "cpu and not networks", BESTIARY_TEST_SHARE="3")
