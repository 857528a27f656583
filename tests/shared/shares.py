"""A share of a long list of cases by default, another every day; all the others are among the slow tests."""

import datetime

import pytest


def todays(cases, every, ids=str):
    """Parameters of which one in `every` is run by default today, and the others by `-m slow`."""
    today = datetime.date.today().toordinal() % every
    return [
        pytest.param(case, id=ids(case), marks=[] if index % every == today else [pytest.mark.slow])
        for index, case in enumerate(cases)
    ]
