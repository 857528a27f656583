"""bestiary benchmark evaluation, on a small set."""

import json

import pytest
from shares import one_day_in

from bestiary.tools import bench_evaluation, benchmark


@pytest.mark.skipif(not bench_evaluation.Path("/proc/self/status").exists(), reason="memory is measured on Linux")
@one_day_in(4, 6)
def test_both_backends_on_a_small_set(tmp_path, capsys):
    out = tmp_path / "record.json"
    argv = ["evaluation", "--images", "60", "--instances", "430", "--detections", "20", "--out", str(out)]
    assert benchmark.main(argv) == 0
    printed = capsys.readouterr().out
    assert "24 numbers differ by at most" in printed and "times as fast" in printed
    record = json.loads(out.read_text())
    assert record["differ"] <= 1e-6 and record["speedup"] > 0  # so few detections are no measurement of it
    for backend in ("faster", "pycocotools"):
        found = record["results"][backend]
        assert len(found["scores"]) == 24 and found["seconds"] > 0 and found["bytes"] >= 0
        assert 0 < found["scores"]["coco/segm_mAP"] < 1


def test_a_difference_is_told(monkeypatch, capsys):
    scores = {"coco/bbox_mAP": 0.5, "coco/segm_mAP": 0.5}
    off = {"faster": scores, "pycocotools": scores | {"coco/segm_mAP": 0.50001}}  # 9.99...e-06 more
    monkeypatch.setattr(
        bench_evaluation, "alone", lambda backend, folder: {"seconds": 1.0, "bytes": 0, "scores": off[backend]}
    )
    assert bench_evaluation.main(["--images", "1", "--instances", "1", "--detections", "1"]) == 1
    assert "error: the backends differ by 9.99" in capsys.readouterr().err


def test_sizes_that_make_no_set(capsys):
    assert bench_evaluation.main(["--images", "0"]) == 1
    assert "--images and --instances want at least 1" in capsys.readouterr().err
