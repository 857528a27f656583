"""The benchmark of training steps on small pictures: what it measures and writes."""

import json

import pytest
import torch

from bestiary.backbones.metaformer import PoolFormer
from bestiary.heads import ImageClassifier, LinearHead
from bestiary.tools import bench_training, benchmark


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def small(name, classes, **kwargs):
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    return ImageClassifier(PoolFormer(arch, out_indices=(3,), **kwargs), LinearHead(8, classes))


def test_the_record_of_a_run(tmp_path, capsys, monkeypatch):
    ways = ["unwatched", "bf16", "with_cp", "channels_last"]
    monkeypatch.setattr(bench_training, "make_classifier", small)
    monkeypatch.setattr(bench_training, "memory_apart", lambda way, args: 1_000_000 * (1 + len(way)))
    out = tmp_path / "record.json"
    argv = ["--size", "32", "--batch", "2", "--threads", "1", "--seconds", "0.01", "--out", str(out)]
    assert benchmark.main(["training", "poolformer_s12", *argv, "--ways", *ways]) == 0
    record = json.loads(out.read_text())
    assert list(record["results"]) == ["plain", *ways] and record["results"]["bf16"]["bytes"] == 5_000_000
    assert {"cpu", "cores"} <= set(record["machine"]) and {"before", "after"} == set(record["load"])
    plain = record["results"]["plain"]
    assert plain["ratio"] == dict(median=1.0, best=1.0, processor=1.0) and plain["seconds"]["calls"] >= 3
    for one in record["results"].values():
        assert one["ratio"]["median"] == pytest.approx(one["seconds"]["median"] / plain["seconds"]["median"])
    assert "poolformer_s12, batch 2 at 32, 1 threads" in capsys.readouterr().out


def test_a_way_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["training", "--ways", "fp8"])
    assert "fp8" in capsys.readouterr().err
