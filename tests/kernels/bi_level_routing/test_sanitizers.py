"""The C++ backend's lesser variants, and all of it under the sanitizers, over the tests of test_cpu.py."""

from pathlib import Path

import pytest
import recompiled

from bestiary.kernels.bi_level_routing import cpu

BACKEND = "bestiary.kernels.bi_level_routing.cpu", "bi_level_routing_cpu", Path(__file__).with_name("test_cpu.py")
NUMBERS = "any_case or threads or packed or lse"  # what runs the kernels on more than a few numbers


@pytest.mark.parametrize(("selection", "share"), [("any_case", 10), pytest.param(NUMBERS, 1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("variant", ["portable", pytest.param("avx2", marks=pytest.mark.slow)])
def test_lesser_variants(variant, selection, share):
    if reason := cpu.unavailable():
        pytest.skip(reason)
    if variant == "avx2" and "avx2" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no AVX2")
    recompiled.run(*BACKEND, selection, BESTIARY_CPU_VARIANT=variant, BESTIARY_TEST_SHARE=str(share))


@pytest.mark.slow
@pytest.mark.parametrize("sanitizer", recompiled.SANITIZERS)
def test_sanitizers_find_nothing(sanitizer, tmp_path):
    if reason := cpu.unavailable():
        pytest.skip(reason)
    recompiled.run_sanitized(sanitizer, tmp_path, *BACKEND, NUMBERS)
