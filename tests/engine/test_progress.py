"""What the progress hook shows."""

import io
import json
from types import SimpleNamespace

import pytest
import torch
from mmengine.evaluator import BaseMetric
from mmengine.model import BaseModel
from rich.console import Console
from torch import nn
from torch.utils.data import Dataset

from bestiary.engine import progress
from bestiary.engine.progress import Pace, PlainDisplay, RichDisplay, clock, pictures_in
from bestiary.engine.runner import CheckingRunner


class Time:
    def __init__(self, monkeypatch):
        self.now = 100.0
        monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: self.now))


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (60, "1:00 min"), (3725, "1:02 h"), (200000, "2 d 7 h")]
)
def test_clock(seconds, text):
    assert clock(seconds) == text


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (dict(inputs=[1, 2, 3]), 3),
        (dict(inputs=torch.rand(5, 3, 2, 2)), 5),
        ([torch.rand(4, 3), torch.rand(4)], 4),
        (dict(other=1), 1),
        (None, 1),
    ],
)
def test_pictures_in(batch, count):
    assert pictures_in(batch) == count


def test_pace_leaves_out_what_is_no_training(monkeypatch):
    clock = Time(monkeypatch)
    pace = Pace()
    for _ in range(30):
        clock.now += 0.5
        pace.tick(8)
    clock.now += 1000  # an evaluation
    pace.resume()
    clock.now += 0.5
    pace.tick(8)
    assert pace.seconds == pytest.approx(0.5)
    assert pace.words(31, 62, 15.5) == " 50%  16.0 pictures/s  16 s left"


def test_plain_lines_are_few(monkeypatch):
    clock, out = Time(monkeypatch), io.StringIO()
    display = PlainDisplay(out)
    shown = []
    for done in range(1, 1001):  # 20 s in all: the tenths, and none between
        clock.now += 0.02
        if display.due("train", done, 1000):
            display.update("train", done, 1000, f"{done}")
            shown.append(done)
    assert shown == list(range(100, 1001, 100))
    display, shown = PlainDisplay(out), []
    for done in range(1, 50):  # slow: a line each 10 s until a tenth is reached
        clock.now += 4
        if display.due("train", done, 1000):
            display.update("train", done, 1000, f"{done}")
            shown.append(done)
    assert shown[:3] == [3, 6, 9]
    clock.now += 1
    assert not display.due("val", 5, 5)  # short evaluations say nothing until they end


def test_bars_go_to_a_terminal():
    out = io.StringIO()
    display = RichDisplay(Console(file=out, force_terminal=True, width=100))
    display.start()
    display.update("train", 3, 4, "epoch 1/2   75%")
    display.update("val", 1, 2, "50%")
    display.say("val   epoch 1: [x] 0.5")
    display.forget("val")
    display.stop()
    text = out.getvalue()
    assert "epoch 1/2   75%" in text and "━" in text and "[x] 0.5" in text


class Toy(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def forward(self, inputs, mode="tensor"):
        out = self.layer(torch.stack(inputs) if isinstance(inputs, list) else inputs)
        return dict(loss=out.square().mean()) if mode == "loss" else [out]


class Data(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return dict(inputs=torch.full((3,), float(index)))


class Mean(BaseMetric):
    default_prefix = "toy"

    def process(self, data_batch, data_samples):
        self.results += [1.0]

    def compute_metrics(self, results):
        print("noise of a library")
        return dict(score=sum(results) / 5)


def test_a_run_is_told_and_its_scores_are_kept(tmp_path, capsys):
    loader = dict(batch_size=2, num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False), dataset=Data())
    cfg = dict(
        model=Toy(),
        work_dir=str(tmp_path),
        train_dataloader=loader,
        val_dataloader=loader,
        train_cfg=dict(by_epoch=True, max_epochs=2),
        val_cfg=dict(),
        val_evaluator=[Mean()],
        optim_wrapper=dict(optimizer=dict(type="SGD", lr=0.1)),
        custom_hooks=[dict(type="bestiary.ProgressHook", plain=True), dict(type="bestiary.ResultsHook")],
        default_scope="bestiary",
    )
    runner = CheckingRunner(**cfg)
    runner.train()
    out = capsys.readouterr().out
    lines = [line for line in out.splitlines() if line.startswith(("train", "val"))]
    assert lines[0].startswith("train epoch 1/2   10%") and " pictures/s " in lines[0] and "loss " in lines[0]
    assert lines[-2].startswith("train epoch 2/2  100%") and "0 s left" in lines[-2]
    assert lines[-1] == "val   epoch 2: toy/score 1.0000"
    assert len(lines) == 12
    assert "noise of a library" not in out and "System environment" not in out
    log = next(tmp_path.rglob("*.log")).read_text()
    assert "noise of a library" in log and "System environment" in log and "toy/score: 1.0000" in log
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["metrics"] == {"toy/score": 1.0}
    assert (content["split"], content["epoch"], content["iter"]) == ("val", 2, 10)
