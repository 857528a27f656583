"""One small set of digits for all tests of the room; a test that breaks something takes a copy."""

import shutil

import pytest

from bestiary.inputs.digits import make_digits


@pytest.fixture(scope="session")
def small_digits(tmp_path_factory):
    """6 training and 4 validation scenes in COCO's and ADE20K's layout; not to be changed."""
    root = tmp_path_factory.mktemp("data") / "digits"
    make_digits(root, train=6, val=4, layouts=("coco", "ade20k"))
    return root


@pytest.fixture
def digits_copy(small_digits, tmp_path):
    """The same, to be broken."""
    return shutil.copytree(small_digits, tmp_path / "digits")
