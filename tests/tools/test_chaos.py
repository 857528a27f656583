"""Runs that are killed, stopped and broken: small shares of `bestiary chaos`, the whole by hand or as slow tests."""

import json
import subprocess
import sys

import pytest
from rich.table import Table
from shares import one_day_in

from bestiary.tools import chaos
from bestiary.tools.chaos_kill import CASES
from bestiary.tools.chaos_resume import ROWS


def run(tmp_path, *argv, timeout=1500):
    """`bestiary chaos ARGV` in a process of its own, as it forks; its record."""
    command = [sys.executable, "-m", "bestiary.tools.cli", "chaos", *argv, "--out", str(tmp_path / "record.json")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=timeout)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "nothing was lost" in done.stdout
    return json.loads((tmp_path / "record.json").read_text())["results"]


def test_five_trials_of_kills(tmp_path):
    records = run(tmp_path, "kill", "--trials", "5", "--seed", "1")
    assert [r["difference"] for r in records] == [0.0] * 5
    assert sum(r["kills"] for r in records) >= 5 and {r["case"] for r in records} == set(CASES)


@one_day_in(4, 22)
def test_the_fullest_row_of_the_matrix(tmp_path):
    rows = ["all of these, DDP x 2"]
    found = run(tmp_path, "resume", "--rows", *rows)
    assert list(found) == rows
    assert all(gap == 0.0 for row in found.values() for gap in row.values())


@pytest.mark.slow
def test_every_row_of_the_matrix(tmp_path):
    found = run(tmp_path, "resume", timeout=3000)
    assert set(found) == set(ROWS)
    assert all(gap == 0.0 for row in found.values() for gap in row.values())


@pytest.mark.slow
def test_fifty_trials_of_kills(tmp_path):
    records = run(tmp_path, "kill", timeout=6000)
    assert len(records) == 50 and all(r["difference"] == 0.0 for r in records)


def test_a_difference_is_a_loss(tmp_path, monkeypatch, capsys):
    """The tool's own verdict: one trial that differs fails the whole."""
    record = dict(case=next(iter(CASES)), kills=1, within_a_save=0)
    for gap, status in ((0.0, 0), (1e-9, 1)):
        found = [record | dict(difference=gap)], Table(), gap != 0
        monkeypatch.setitem(chaos.PARTS, "kill", lambda *_, found=found: found)
        assert chaos.main(["kill", "--trials", "1"]) == status
        assert ("something was LOST" in capsys.readouterr().out) is bool(status)


def test_rows_that_are_not_there(capsys):
    assert chaos.main(["resume", "--rows", "mixup", "mix-up"]) == 1
    assert "no row 'mix-up'; there are dropout, drop path" in capsys.readouterr().err
