"""Hostile files: each reaches its canary by the bare library, and not by ours, which says why."""

import pytest

from bestiary.tools.chaos_hostile import ATTACKS, attempt


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.name)
def test_is_refused(attack, tmp_path):
    result = attempt(attack, tmp_path)
    assert result.bare, "the attack does not work, so the test shows nothing"
    assert not result.ours, result.said
    if attack.name != "checkpoint: text in meta, resumed":  # there the weights are fine, and the text is left out
        assert result.said.startswith(("InputError: ", "KeyError: 'os.mkdir is not in")), result.said
