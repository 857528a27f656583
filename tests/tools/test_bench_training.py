"""The benchmark of training steps on small pictures: what it measures and writes."""

import json

import pytest
import torch

from bestiary.tools import bench_training, benchmark

SMALL = ["--size", "32", "--batch", "2", "--threads", "1", "--seconds", "0.01"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_record_of_a_run(tmp_path, capsys, monkeypatch):
    apart = []

    def in_this_process(way, args):
        apart.append(way)
        return bench_training.memory(bench_training_args(args, way))

    def bench_training_args(args, way):
        args.one = way
        return args

    monkeypatch.setattr(bench_training, "memory_apart", in_this_process)
    out = tmp_path / "record.json"
    ways = ["unwatched", "bf16", "with_cp", "channels_last"]
    assert benchmark.main(["training", "poolformer_s12", *SMALL, "--ways", *ways, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    assert list(record["results"]) == ["plain", *ways] == apart
    assert {"cpu", "cores"} <= set(record["machine"]) and {"before", "after"} == set(record["load"])
    plain = record["results"]["plain"]
    assert plain["ratio"] == dict(median=1.0, best=1.0, processor=1.0) and plain["seconds"]["calls"] >= 3
    for one in record["results"].values():
        assert one["ratio"]["median"] == pytest.approx(one["seconds"]["median"] / plain["seconds"]["median"])
        assert one["bytes"] > 0
    assert "poolformer_s12, batch 2 at 32, 1 threads" in capsys.readouterr().out


def test_a_way_that_is_not_there(capsys):
    with pytest.raises(SystemExit):
        benchmark.main(["training", "--ways", "fp8"])
    assert "fp8" in capsys.readouterr().err
