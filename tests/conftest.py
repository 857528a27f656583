"""Threads of parallel test processes, set before torch is imported, mmengine's scope, and the order of tests."""

import os
import sys

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """The pages that are run first: tests of minutes, which at the end would run while the other worker idles."""
    items.sort(key=lambda item: item.path.name != "test_pages.py")


@pytest.fixture(autouse=True)
def _nothing_left_behind():
    """A Runner leaves its default scope set for the process, in which the next test would look its types up; threads.

    A test that is forked after another has computed with several threads waits for them for ever.
    """
    before = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else None
    yield
    if "mmengine.registry" in sys.modules:
        sys.modules["mmengine.registry"].DefaultScope._instance_dict.clear()
    if before is not None and sys.modules["torch"].get_num_threads() != before:
        sys.modules["torch"].set_num_threads(before)
