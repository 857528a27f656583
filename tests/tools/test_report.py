"""bestiary report: real trainings of all tasks, as a subprocess with and without a terminal, looked at in Chromium."""

import contextlib
import json
import os
import pty
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chromium import Chromium, find_chromium
from shares import one_day_in

from bestiary.engine.report import collect, environment, evidence, history, hook
from bestiary.engine.report.page import write_report
from bestiary.inputs.class_sample import ClassSample
from bestiary.inputs.digits import make_digits
from bestiary.tools import report as report_tool
from bestiary.tools import train as train_tool

COMMAND = [sys.executable, "-m", "bestiary.tools.cli"]
SMALL = [
    *("--threads", "1", "--cfg-options", "train_cfg.max_epochs=2", "train_cfg.val_interval=1"),
    *("train_dataloader.num_workers=0", "train_dataloader.persistent_workers=False", "train_dataloader.batch_size=16"),
    *("val_dataloader.num_workers=0", "val_dataloader.persistent_workers=False"),
    *("train_dataloader.dataset.indices=64", "default_hooks.logger.interval=1"),
]


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder in which the quickstart's classifier was trained for two short epochs, as a command."""
    root = tmp_path_factory.mktemp("digits")
    make_digits(root / "data" / "digits", copies=1, layouts=("imagenet",))
    command = [*COMMAND, "train", "quickstart/classifier_poolformer_digits", "--work-dir", "run", *SMALL]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "report: run/report.html" in done.stdout and "no report" not in done.stderr
    return root


@pytest.fixture(scope="module")
def runs(tiny, tmp_path_factory):
    """Work directories `detection` and `segmentation`, each of a training of seconds."""
    root = tmp_path_factory.mktemp("runs")
    for task in ("detection", "segmentation"):
        argv = [str(tiny / f"{task}.py"), "--work-dir", str(root / task), "--threads", "1", "--seed", "1"]
        assert train_tool.main(argv) == 0
    return root


@pytest.fixture(scope="module")
def labels(tmp_path_factory):
    """A work directory of 90 labels with long names, 200 pictures that are gone, and one that still runs."""
    root, rng = tmp_path_factory.mktemp("labels"), np.random.default_rng(0)
    names = [f"a label with a long name, number {k}" for k in range(90)]
    truth = rng.random((200, 90)) < 0.1
    scores = np.clip(0.6 * rng.random((200, 90)) + 0.4 * truth, 0, 1).astype(np.float32)
    collector = collect.LabelsCollector(90, 200)
    for number in range(200):
        sample = ClassSample(metainfo=dict(img_path=f"{number}.jpg")).set_gt_score(torch.from_numpy(truth[number]))
        collector.add(sample.set_prediction(torch.from_numpy(scores[number]), 0.5), dict)
    facts = dict(classes=names, palette=None, pictures=200, total=400, iter=123_456, epoch=1, world=2)
    evidence.save_part(root, collector, facts, 0)
    history.note(
        *(root, "start"),
        **dict(time=1.7e9, timestamp="x", iter=0, max_iters=200_000, max_epochs=10, batch_size=64, world=2, threads=8),
        **dict(train_pictures=10**6, parameters=10**8, trainable=10**8, device="cuda:0", config="a.py"),
        **dict(process=environment.identity(), **environment.describe()),
    )
    wide = {f"multilabel/AP_{name}": 0.5 for name in names} | {"multilabel/mAP": 0.512345}
    for iteration in (60_000, 123_456):
        history.note(root, "evaluation", time=1.7e9, iter=iteration, epoch=1, scores=wide, seconds=9000, tables=[])
    return root


def test_the_page_of_a_training(digits):
    """What the page says is what the run's own files say."""
    text = (digits / "run" / "report.html").read_text()
    scores = json.loads((digits / "run" / "metrics.json").read_text())["metrics"]
    assert f"<dt>top-1 accuracy</dt><dd>{scores['accuracy/top1']:.4f}<small>" in text
    assert "finished after iteration 8 of 8" in text and "ImageClassifier, bestiary.PoolFormer" in text
    assert "bestiary train quickstart/classifier_poolformer_digits" in text and "torch" in text
    matrix = text.partition("Confusion matrix</figcaption>")[2].partition("</figure>")[0]
    right = sum(int(n) for n in re.findall(r"(\d+) taken for \1: (\d+)", matrix) for n in n[1:])
    wrong = sum(int(c.replace(",", "")) for a, b, c in re.findall(r"(\d+) taken for (\d+): ([\d,]+)", matrix) if a != b)
    pictures = len(list((digits / "data/digits/imagenet/val").rglob("*.jpg")))
    assert right + wrong == pictures and right / pictures == pytest.approx(scores["accuracy/top1"])
    start = json.loads((digits / "run" / "report" / "history.jsonl").read_text().splitlines()[0])
    assert (start["batch_size"], start["train_pictures"], start["max_iters"]) == (16, 64, 8)
    assert text.count("data:image/webp;base64,") == 12 and "Precision over recall" in text


@one_day_in(4, 20)
def test_as_a_command_without_a_terminal(digits):
    done = subprocess.run([*COMMAND, "report", "run", "--out", "a.html"], cwd=digits, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"report: a\.html \(\d\.\d MB\)\n", done.stdout)
    # From another folder than the training's, the data set's relative paths still lead to the pictures.
    write_report(digits / "run", digits / "c.html")
    assert "no longer there" not in (digits / "c.html").read_text()
    assert "\x1b" not in done.stdout and (digits / "a.html").stat().st_size < 1_000_000


@pytest.mark.slow
def test_as_a_command_in_a_terminal(digits):
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*COMMAND, "report", "run", "--out", "b.html"],
        **dict(cwd=digits, stdout=theirs, stderr=theirs, stdin=theirs, env={**os.environ, "TERM": "xterm-256color"}),
    )
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # Linux says the end so
        while part := os.read(ours, 4096):
            said += part
    os.close(ours)
    assert process.wait() == 0, said
    assert b"\x1b[" in said and b"1/1 runs" in said and b"report: b.html" in said and b"Traceback" not in said
    assert (digits / "b.html").is_file()


def test_bad_input(tmp_path, runs, capsys):
    def message(*argv):
        assert report_tool.main([str(part) for part in argv]) == 1
        err = capsys.readouterr().err
        assert len(err.splitlines()) == 1 and err.startswith("error: ")
        return err

    assert "no run in it" in message(tmp_path)
    assert "detectoin: no such folder (did you mean 'detection'?)" in message(runs / "detectoin")
    assert "a folder; give --out the name of a file" in message(runs / "detection", "--out", tmp_path)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in message(runs / "detection", "--out", tmp_path / "file" / "a.html")
    assert "cannot be written" in message(runs / "detection", "--out", "/proc/a.html")
    broken = shutil.copytree(runs / "detection", tmp_path / "broken")
    (broken / "report" / "evidence_rank0.npz").write_bytes(b"PK cut")
    assert "evidence_rank0.npz: cannot be read" in message(broken)


def test_detection_and_segmentation_leave_evidence(runs):
    found = evidence.read_evidence(runs / "detection")
    assert (found.kind, found.classes, found.pictures, found.total) == ("objects", ["square", "disc"], 4, 4)
    assert found.arrays["objects"].tolist() == [4, 4]
    # mmdet's metric rounds to three places; both count the same detections.
    scores = json.loads((runs / "detection" / "metrics.json").read_text())["metrics"]
    ap = np.mean([curve.ap for curve in evidence.curves_of(found)])
    assert ap == pytest.approx(scores["coco/bbox_mAP"], abs=6e-4)
    found = evidence.read_evidence(runs / "segmentation")
    matrix, names = evidence.confusion_of(found)
    assert matrix.sum() == 4 * 64 * 64 and names == ["background", "square", "disc"]
    scores = json.loads((runs / "segmentation" / "metrics.json").read_text())["metrics"]
    iou = matrix.diagonal() / (matrix.sum(0) + matrix.sum(1) - matrix.diagonal())
    assert np.nanmean(iou) == pytest.approx(scores["mIoU"], abs=6e-5)
    assert (runs / "segmentation" / "report.html").is_file()


def test_no_report_leaves_nothing(tiny, tmp_path):
    argv = [str(tiny / "segmentation.py"), "--work-dir", str(tmp_path), "--cfg-options", "train_cfg.max_iters=2"]
    assert train_tool.main([*argv, "--no-report"]) == 0
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "report").exists()
    assert (tmp_path / "metrics.json").is_file()


@pytest.mark.parametrize("broken", ["page", "evidence"])
def test_a_report_that_fails_fails_no_run(broken, tiny, tmp_path, monkeypatch, capsys):
    def fail(*args, **kwargs):
        raise RuntimeError("the disk\nis full")

    target = "bestiary.engine.report.page.write_report" if broken == "page" else None
    if target:
        monkeypatch.setattr(target, fail)
    else:
        monkeypatch.setattr(hook, "save_part", fail)
    argv = [str(tiny / "segmentation.py"), "--work-dir", str(tmp_path), "--cfg-options", "train_cfg.max_iters=2"]
    assert train_tool.main(argv) == 0
    said = "".join(capsys.readouterr())
    log = next(tmp_path.glob("*/*.log")).read_text()
    assert log.count("no report page of this run: RuntimeError: the disk is full") == 1
    assert "no report page of this run: RuntimeError: the disk is full" in said
    assert (tmp_path / "iter_2.pth").is_file() and (tmp_path / "metrics.json").is_file()


needs_chromium = pytest.mark.skipif(find_chromium() is None, reason="no Chromium here: apt-get install chromium")


@needs_chromium
def test_the_pages_in_chromium(digits, runs, labels, tmp_path):
    """No errors, nothing asked for, all figures there, nothing wider than the window, no text over another."""
    (tmp_path / "all").mkdir()
    for folder in (digits / "run", runs / "detection", runs / "segmentation"):
        (tmp_path / "all" / folder.name).symlink_to(folder)
    pages = {name: write_report(folder, tmp_path / f"{name}.html") for name, folder in _folders(digits, runs, labels)}
    with Chromium(tmp_path / "profile") as browser:
        for name, page in pages.items():
            for width in (1400, 420):
                found = browser.look(page, width, dark=width == 420)
                where = f"{name} at {width}"
                assert found["errors"] == [], where
                assert [url for url in found["asked"] if not url.startswith("data:")] == [page.as_uri()], where
                assert found["inner"] == width and found["page"] <= width, (where, found["page"])
                assert found["wide"] == [] and found["overlaps"] == [] and found["small"] == 0, where
                figures = found["figures"]
                assert all(f["width"] > 20 and f["height"] > 20 and f["loaded"] and f["said"] for f in figures), where
                kinds = [figure["tag"] for figure in figures]
                assert kinds.count("svg") >= EXPECTED[name][0] and kinds.count("img") == EXPECTED[name][1], where
                assert found["headings"][0].startswith("H1 "), where
        # The look can fail: a page with a wide box, two texts in one place, a script that throws.
        bad = tmp_path / "bad.html"
        bad.write_text(
            "<h1>a</h1><div style='width:3000px'>b</div><svg width=90 height=40 aria-label=c>"
            "<text x=2 y=20>one</text><text x=4 y=20>two</text></svg><img src=gone.png alt=d><script>d()</script>"
        )
        found = browser.look(bad, 420)
        assert found["page"] > 420 and "DIV." in found["wide"] and found["overlaps"] == ["one / two"]
        assert found["errors"] and any("gone.png" in url for url in found["asked"])


# Charts at least, pictures exactly.
EXPECTED = {"digits": (6, 12), "detection": (6, 8), "segmentation": (5, 8), "labels": (2, 12), "runs": (10, 16)}


def _folders(digits: Path, runs: Path, labels: Path) -> list[tuple[str, Path]]:
    return [
        *(("digits", digits / "run"), ("detection", runs / "detection"), ("segmentation", runs / "segmentation")),
        *(("labels", labels), ("runs", runs)),
    ]
