"""The benchmark of backends in whole backbones, on small pictures: what it writes, what it checks, what it refuses."""

import json

import pytest
from shares import one_day_in

from bestiary.errors import InputError
from bestiary.tools import bench_backends, benchmark

SMALL = ["--batch", "2", "--size", "64", "--threads", "1", "--seconds", "0.1"]


def test_every_backend_is_set_against_the_first(tmp_path, capsys):
    out = tmp_path / "record.json"
    told = ["backends", "biformer_tiny", "--backends", "cpu", "gather", *SMALL, "--out", str(out)]
    assert benchmark.main(told) == 0
    record = json.loads(out.read_text())
    assert record["tool"] == "bench_backends" and record["arguments"]["batch"] == 2
    assert record["differ"]["cpu"] == 0 and 0 < record["differ"]["gather"] < 1e-3
    assert list(record["results"]) == ["forward", "forward+backward"]
    for result in record["results"].values():
        assert all(result[backend]["median_s"] >= result[backend]["best_s"] > 0 for backend in ("cpu", "gather"))
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("biformer_tiny", "forward+backward", "gather"))


@one_day_in(4, 2)
def test_memory_is_that_of_a_fresh_process():
    args = bench_backends.arguments().parse_args(["biformer_tiny", "--backends", "gather", *SMALL])
    assert 1 << 20 < bench_backends.alone(args, "gather", "forward") < 1 << 28
    args.name = "biformer_tine"
    with pytest.raises(InputError, match="(?s)memory of biformer_tine: the process that measures it failed.*biformer"):
        bench_backends.alone(args, "gather", "forward")


def test_backends_that_disagree_are_no_contest(monkeypatch, capsys):
    monkeypatch.setattr(bench_backends, "TOLERANCE", 1e-12)
    told = ["biformer_tiny", "--backends", "cpu", "gather", *SMALL, "--passes", "forward"]
    assert bench_backends.main(told) == 1
    assert "gather deviates from cpu by" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("told", "message"),
    [
        (["biformer_tiny", "--backends", "cup"], "no backend 'cup'; there are"),
        (["biformer_tine", "--backends", "cpu"], "biformer_tiny"),
    ],
)
def test_bad_input_is_told_in_a_line(told, message, capsys):
    assert bench_backends.main([*told, *SMALL]) == 1
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
