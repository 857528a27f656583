"""Work directories as a report reads them: joined curves, what became of a run, charts."""

import json
import os
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from bestiary.engine.report import charts, environment, history, page, runs, words
from bestiary.errors import InputError


def logged(folder, stamp, steps, **more):
    """What mmengine's LocalVisBackend leaves of a start."""
    log = folder / stamp / "vis_data"
    log.mkdir(parents=True)
    rows = [dict(lr=0.1, loss=10.0 / step, time=0.5, data_time=0.1, iter=step, step=step, **more) for step in steps]
    (log / "scalars.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (log / "config.py").write_text("model = dict(\n    backbone=dict(\n        type='Net'),\n    type='Head')\n")
    return log


def start(folder, stamp, iteration, **facts):
    common = dict(time=time.time(), timestamp=stamp, iter=iteration, max_iters=100, max_epochs=4, batch_size=8, world=1)
    common |= dict(threads=1, train_pictures=50, parameters=1000, trainable=1000, device="cpu", config="a.py")
    common |= dict(process=environment.identity(), **environment.describe())
    history.note(folder, "start", **(common | facts))


def evaluated(folder, iteration, value):
    history.note(
        folder, "evaluation", time=time.time(), iter=iteration, epoch=1, scores={"mIoU": value}, seconds=5, tables=[]
    )


def test_a_resumed_run_is_one_curve(tmp_path):
    logged(tmp_path, "20260101_000000", range(10, 60, 10))  # killed after 50; its checkpoint is of 30
    start(tmp_path, "20260101_000000", 0)
    evaluated(tmp_path, 30, 0.5)
    evaluated(tmp_path, 45, 0.4)
    logged(tmp_path, "20260102_000000", range(35, 105, 10), grad_norm=2.0)
    start(tmp_path, "20260102_000000", 30)
    evaluated(tmp_path, 60, 0.7)
    run = runs.read_run(tmp_path)
    assert run.curve("loss")[0] == [10, 20, 30, 35, 45, 55, 65, 75, 85, 95]
    assert run.score_curve("mIoU") == ([30, 60], [0.5, 0.7])
    assert run.best("mIoU")["iter"] == 60 and len(run.starts) == 2
    assert run.state == "running" and "iteration 95 of 100" in run.words  # the process is this one
    steps, rate = words.pace(run)
    assert len(steps) == 10 and set(rate) == {16.0} and words.waiting(run) == pytest.approx(0.2)
    assert words.model_of(run.config) == "Head, Net"


def test_states(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    known = environment.identity(process.pid)
    logged(tmp_path, "20260101_000000", [20, 40])
    start(tmp_path, "20260101_000000", 0, process=known)
    assert runs.read_run(tmp_path).state == "running"
    process.communicate(b"\n")
    run = runs.read_run(tmp_path)
    assert run.state == "stopped" and "stopped before its end, at iteration 40 of 100" in run.words
    start(tmp_path, "20260103_000000", 40, process={**known, "boot": "another machine's"})
    assert runs.read_run(tmp_path).state == "unknown"
    history.note(tmp_path, "end", time=time.time() + 1, iter=100, seconds=1, memory={"process": 2**30})
    run = runs.read_run(tmp_path)
    assert (run.state, run.words) == ("finished", "finished after iteration 100 of 100")
    assert words.memory_of(run) == {"process": 2**30}
    start(tmp_path, "20260103_010000", 100, time=time.time() + 1.2, max_iters=300)
    history.note(tmp_path, "end", time=time.time() + 1.5, iter=200, seconds=1, memory={})
    assert runs.read_run(tmp_path).words == "finished after iteration 200 of 300: a hook ended the training early"
    start(tmp_path, "20260104_000000", 100, time=time.time() + 2)  # and goes on
    assert runs.read_run(tmp_path).state == "running"


def test_another_process_with_the_same_number_is_another():
    here = environment.identity()
    assert environment.lives(here) is True and here["pid"] == os.getpid()
    assert environment.lives({**here, "began": here["began"] - 1}) is False
    assert environment.lives(None) is None


def test_a_work_directory_of_mmengine_alone(tmp_path):
    """No history: scores are those of the log, mmseg's percent as fractions, COCO's -1 as none."""
    log = logged(tmp_path, "20260101_000000", [10, 20])
    with (log / "scalars.json").open("a") as file:
        file.write(json.dumps({"mIoU": 61.5, "coco/bbox_mAP_s": -1, "time": 0.1, "step": 1}) + "\n")
        file.write('{"lr": 0.1, "loss": 0.2, "st')  # cut short by a kill
    run = runs.read_run(tmp_path)
    assert run.scores == {"mIoU": pytest.approx(0.615), "coco/bbox_mAP_s": None}
    assert run.evaluations[0]["iter"] == 20 and run.state == "unknown" and "was not noted" in run.words
    assert page.write_report(tmp_path, tmp_path / "a.html").is_file()


def test_no_run(tmp_path):
    (tmp_path / "run").mkdir()
    with pytest.raises(InputError, match="run: no run in it: neither a log"):
        runs.find_runs(tmp_path / "run")
    with pytest.raises(InputError, match=r"rum: no such folder \(did you mean 'run'\?\)"):
        runs.find_runs(tmp_path / "rum")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: a file; give the work directory"):
        runs.find_runs(tmp_path / "file")


def test_a_run_that_has_logged_nothing_yet(tmp_path):
    (tmp_path / "20260101_000000" / "vis_data").mkdir(parents=True)
    start(tmp_path, "20260101_000000", 0)
    text = page.write_report(tmp_path, tmp_path / "a.html").read_text()
    assert "still running" in text and "No evaluation yet." in text and "iteration 0 of 100" in text


def test_several_runs_share_an_axis(tmp_path):
    for name, steps in (("one", range(10, 60, 10)), ("two", range(10, 110, 10)), ("deep/three", [10])):
        logged(tmp_path / name, "20260101_000000", steps)
        start(tmp_path / name, "20260101_000000", 0)
        evaluated(tmp_path / name, 10, 0.25)
    found = runs.find_runs(tmp_path)
    assert [run.name for run in found] == ["deep/three", "one", "two"]
    text = page.write_report(tmp_path, tmp_path / "a.html").read_text()
    shared = text.partition('<details class="run"')[0]
    assert "3 runs" in shared and all(f"</i>{run.name}</li>" in shared for run in found)
    loss = shared.partition("Training loss")[2].partition("</figure>")[0]
    assert loss.count("<polyline") == 2 and loss.count("<circle") == 1  # a run of one row is a dot
    assert text.count('<details class="run"') == 3


def test_what_people_wrote_is_escaped(tmp_path):
    folder = tmp_path / "<script>alert(1)"
    log = logged(folder, "20260101_000000", [10])
    (log / "config.py").write_text("note = '</pre><script>alert(2)</script>'\n")
    start(folder, "20260101_000000", 0, command="train </dd><script>alert(3)</script>")
    text = page.write_report(folder, tmp_path / "a.html").read_text()
    assert "<script" not in text and "&lt;script&gt;alert(2)" in text and "&lt;script&gt;alert(3)" in text


@pytest.mark.parametrize("seed", range(20))
def test_ticks_are_round_and_inside(seed):
    rng = np.random.default_rng(seed)
    low = float(rng.normal() * 10.0 ** rng.integers(-6, 6))
    high = low + float(rng.uniform(0.1, 1) * 10.0 ** rng.integers(-3, 6))
    found = charts.ticks(low, high)
    slack = (high - low) * 1e-6
    assert 2 <= len(found) <= 8 and low - slack <= found[0] and found[-1] <= high + slack
    step = np.diff(found)
    assert np.allclose(step, step[0], rtol=1e-4)
    assert f"{step[0]:.0e}"[0] in "125"


def test_numbers_of_axes():
    values = [0, 12, 1234, 12000, 2.5e6, 0.25, 3e-5, 1.5e-7, -0.5]
    assert [charts.number(v) for v in values] == ["0", "12", "1234", "12k", "2.5M", "0.25", "3e-5", "1.5e-7", "-0.5"]


def points(chart):
    """Points of the first line of a chart, in its units."""
    line = re.search(r'<polyline class="[^"]*" points="([^"]*)"', chart)[1]
    return np.array([[float(v) for v in pair.split(",")] for pair in line.split()])


def test_a_line_lies_where_its_numbers_are():
    chart = charts.line_chart("a", [charts.Line("", [0, 50, 100], [0, 1, 4])], "x", "y")
    found = points(chart)
    ET.fromstring(chart)
    left, right = found[0, 0], found[-1, 0]
    assert found[1, 0] == pytest.approx((left + right) / 2, abs=0.1)
    assert found[0, 1] - found[1, 1] == pytest.approx((found[0, 1] - found[2, 1]) / 4, abs=0.1)
    assert found.min() >= 0 and right <= charts.WIDTH and found[:, 1].max() <= charts.HEIGHT


def test_a_wide_range_is_logarithmic_and_says_so():
    chart = charts.line_chart("a", [charts.Line("", [0, 1, 2], [1e-4, 1e-2, 1])], "x", "y")
    found = points(chart)
    assert "y, log scale" in chart
    assert found[0, 1] - found[1, 1] == pytest.approx(found[1, 1] - found[2, 1], abs=0.1)
    assert "log scale" not in charts.line_chart("a", [charts.Line("", [0, 1], [-1, 100])], "x", "y")


def test_values_that_are_no_numbers_are_left_out():
    values = [1, float("nan"), 2, float("inf"), 3]
    assert len(points(charts.line_chart("a", [charts.Line("", range(5), values)], "x", "y"))) == 3
    assert charts.line_chart("a", [charts.Line("", [0], [float("nan")])], "x", "y") == ""
    assert charts.line_chart("a", [], "x", "y") == ""


def test_many_points_become_means():
    x, y = np.arange(100_000.0), np.random.default_rng(0).random(100_000)
    thin = charts.thinned(x, y)
    assert len(thin[0]) == charts.POINTS and thin[1].mean() == pytest.approx(y.mean(), abs=1e-3)
    assert charts.thinned(x, y, mean=False)[0][-1] == x[-1]
    chart = charts.line_chart("a", [charts.Line("", x, y)], "x", "y")
    assert len(chart) < 10_000


def test_a_matrix_has_its_counts():
    counts = np.array([[8, 2, 0], [0, 5, 0], [1, 0, 1000]])
    chart = charts.matrix_chart("a", counts, ["cat", "dog <b>", "bird"])
    root = ET.fromstring(chart)
    cells = {rect[0].text: float(rect.get("fill-opacity")) for rect in root.iter("rect") if len(rect)}
    assert len(cells) == 5 and cells["cat taken for dog <b>: 2, 20.0% of the row"] == pytest.approx(0.296, abs=0.005)
    assert [t.text for t in root.iter("text") if "count" in t.get("class")] == ["8", "2", "5", "1", "1000"]


def test_of_many_classes_those_with_mistakes_are_drawn():
    counts = np.diag(np.full(200, 50))
    counts[7, 150] = 9
    chart = charts.matrix_chart("a", counts, [f"class number {k}" for k in range(200)])
    assert "class number 7 taken for class number 150: 9" in chart and "The 30 of 200 classes" in chart
    assert chart.count("<title>") == 31
