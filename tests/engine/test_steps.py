"""Progress of counted work: words, lines for a pipe, a bar for a terminal."""

import io
import sys
from types import SimpleNamespace

import pytest
from rich.console import Console

from bestiary.engine import progress, steps
from bestiary.engine.steps import Steps, tracked


@pytest.fixture
def clock(monkeypatch):
    hands = SimpleNamespace(now=50.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: hands.now))
    return hands


def test_words_tell_how_far_how_fast_and_how_long(clock):
    with Steps("try", 8, "configs", plain=True) as work:
        assert work.words() == "0/8    0%"
        for _ in range(2):
            clock.now += 3
            work.done()
        work.now = "davit"
        assert work.words() == "2/8   25%  3 s each  18 s left  davit"
        work.done(2)  # in no time: the mean of a step is now 2 s for 1.3
        rate = work.pace.pictures / work.pace.seconds
        assert rate == pytest.approx((1 + 1 + 2) / 6) and "4/8   50%" in work.words()
    with Steps("read", 100, "files", plain=True) as work:
        clock.now += 0.25
        work.done()
        assert work.words() == "1/100    1%  4.0 files/s  25 s left"


def test_a_pipe_gets_lines_where_it_was_quiet_and_on_the_error_stream(clock, capsys):
    with Steps("try", 9, "configs") as work:
        for number in range(9):
            work.begin(f"config {number}")
            clock.now += 6
            work.done()
            work.say(f"result {number}")
    out, err = capsys.readouterr()
    assert out.splitlines() == [f"result {number}" for number in range(9)]
    lines = err.splitlines()
    assert lines[0] == "try   2/9   22%  6 s each  42 s left  config 1" and 3 <= len(lines) <= 5
    for _ in tracked(range(3), "fast"):
        pass
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_a_bar_that_goes_when_the_work_is_done(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(steps, "Console", lambda file: Console(file=screen, force_terminal=True, width=100))
    with Steps("try", 3, "configs") as work:
        work.begin("davit")
        work.done()
        work.say("davit: ok")
        work.done(2)
    text = screen.getvalue()
    assert "davit: ok\n" in text and "0/3    0%  davit" in text and "━" in text
    assert text.endswith("\x1b[2K\x1b[?25h")  # the line is wiped, and the cursor is back


def test_an_error_gives_the_terminal_back(monkeypatch):
    screen = io.StringIO()
    monkeypatch.setattr(steps, "Console", lambda file: Console(file=screen, force_terminal=True, width=100))
    with pytest.raises(RuntimeError), Steps("try", 3):
        raise RuntimeError
    assert screen.getvalue().endswith("\x1b[?25h") and sys.stdout is not screen


def test_tracked_hands_every_item_on(clock):
    assert list(tracked([1, 2, 3], "count")) == [1, 2, 3]
    assert list(tracked(iter("ab"), "count", total=2)) == ["a", "b"]
