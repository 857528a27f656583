"""Threads of parallel test processes, set before torch is imported, and the order of tests."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("MKL_NUM_THREADS", "1")


def pytest_collection_modifyitems(items):
    """The README's commands first: one test of two minutes, which at the end would run while the other worker idles."""
    items.sort(key=lambda item: item.path.name != "test_readme.py")
