"""Commands from end to end, in a terminal and without one: bars there, plain lines here, the same results."""

import subprocess
import sys

import pytest
from shares import one_day_in
from terminal import in_terminal

BESTIARY = [sys.executable, "-m", "bestiary.tools.cli"]


@one_day_in(4, 1)
def test_digits_are_made_with_a_bar_and_without_one(tmp_path):
    words = [*BESTIARY, "data", "digits", "small", "--train", "40", "--val", "2", "--copies", "1"]
    shown, status = in_terminal(words, cwd=tmp_path)
    assert status == 0 and "\x1b[?25l" in shown and "━" in shown and " pictures/s" in shown
    assert shown.split("\x1b[?25h")[-1].startswith("\r\nsmall: wrote") or "small: wrote" in shown
    done = subprocess.run([*words, "--overwrite"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("small: wrote") and "\x1b" not in done.stdout + done.stderr


@pytest.mark.slow
def test_a_comparison_in_a_narrow_terminal_and_in_a_pipe(tmp_path):
    words = ["compare", "shvit_s1", "timm:resnet18", "--size", "32", "--batch", "2", "--threads", "1", "--seconds", "0"]
    shown, status = in_terminal([*BESTIARY, *words, "--out", "r.json"], columns=80, cwd=tmp_path)
    assert status == 0 and "\x1b[?25l" in shown and "M params" in shown and "timm resnet18" in shown
    done = subprocess.run([*BESTIARY, "compare", "--from", "r.json"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and "timm resnet18" in done.stdout and "\x1b" not in done.stdout
