"""Scores as fractions, and the files of a work directory."""

import io

import numpy as np
import torch
from rich.console import Console

from bestiary.engine.results import checkpoints_of, fractions, metrics_line, print_table


class IoUMetric:
    pass


class Child(IoUMetric):
    pass


class Evaluator:
    def __init__(self, *metrics):
        self.metrics = metrics


def test_percent_of_mmseg_becomes_fractions():
    metrics = dict(mIoU=78.25, aAcc=np.float32(99.5), other=50.0)
    assert fractions(metrics, Evaluator(Child())) == dict(mIoU=0.7825, aAcc=0.995, other=50.0)
    assert fractions(metrics, Evaluator(object()))["mIoU"] == 78.25


def test_what_is_no_score_is_none():
    metrics = {
        "coco/bbox_mAP_l": -1.0,
        "a": float("nan"),
        "b": torch.tensor(0.25),
        "text": "0.1",
        "c": True,
        "zero": 0.0,
    }
    assert fractions(metrics) == {"coco/bbox_mAP_l": None, "a": None, "b": 0.25, "zero": 0.0}


def test_line_and_table():
    metrics = {"coco/bbox_mAP": 0.81234, "coco/bbox_mAP_50": 0.9, "coco/bbox_mAP_s": -1.0}
    assert metrics_line(metrics) == "coco/bbox_mAP 0.8123"
    assert metrics_line({}) == "no metric"
    out = io.StringIO()
    print_table(fractions(metrics), "val", Console(file=out, width=100))
    text = out.getvalue()
    assert "val:" in text and "0.8123" in text and "coco/bbox_mAP_s" in text


def test_checkpoints_of_a_folder_that_moved(tmp_path):
    assert checkpoints_of(tmp_path) == {}
    (tmp_path / "epoch_2.pth").touch()
    (tmp_path / "best_x_epoch_1.pth").touch()
    (tmp_path / "last_checkpoint").write_text("/long/gone/epoch_2.pth")
    assert checkpoints_of(tmp_path) == {"last": tmp_path / "epoch_2.pth", "best": tmp_path / "best_x_epoch_1.pth"}
    (tmp_path / "epoch_2.pth").unlink()
    assert "last" not in checkpoints_of(tmp_path)
