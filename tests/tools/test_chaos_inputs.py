"""Bad inputs: a share of the bank by default, all of it by `-m slow`."""

import pytest
from shares import todays

from bestiary.tools.chaos_inputs import CASES, attempt


def test_there_are_forty():
    assert len({case.name for case in CASES}) == len(CASES) >= 40


@pytest.mark.parametrize("case", todays(CASES, 12, ids=lambda case: case.name))
def test_ends_as_it_should(case, tmp_path):
    result = attempt(case, tmp_path / "case")
    assert not result.wrong, (result.wrong, (tmp_path / "case/output.txt").read_text(errors="replace"))
