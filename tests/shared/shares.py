"""A share of what is long by default, another every day; all the rest is among the slow tests."""

import datetime

import pytest


def todays(cases, every, ids=str):
    """Parameters of which one in `every` is run by default today, and the others by `-m slow`."""
    today = datetime.date.today().toordinal() % every
    return [
        pytest.param(case, id=ids(case), marks=[] if index % every == today else [pytest.mark.slow])
        for index, case in enumerate(cases)
    ]


def one_day_in(days, day):
    """A mark for a long test: it is run by default on one day of `days`, the one of number `day`, else by `-m slow`."""
    return (lambda test: test) if datetime.date.today().toordinal() % days == day % days else pytest.mark.slow
