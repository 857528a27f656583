"""The benchmark of the selective scan and of routed attention on tiny cases: what it writes, checks and refuses."""

import importlib
import json

import pytest
import torch

from bestiary.kernels import use_backend
from bestiary.tools import bench_operators, benchmark, scan_contestants


@pytest.fixture(autouse=True)
def plain_backend():
    """Nothing is compiled for these tests: ours is the reference."""
    threads = torch.get_num_threads()
    with use_backend("reference"):
        yield
    torch.set_num_threads(threads)


def test_the_record_of_a_run(tmp_path, capsys):
    out = tmp_path / "record.json"
    arguments = ["kernels", "--operator", "selective_scan", "--shapes", "tiny", "--seconds", "0.01", "--out", str(out)]
    assert benchmark.main(arguments) == 0
    record = json.loads(out.read_text())
    assert record["tool"] == "bench_operators" and record["arguments"]["operator"] == "selective_scan"
    assert "out" not in record["arguments"]  # a path of this machine
    assert len(record["results"]) == 2 * 2  # cases, passes
    for result in record["results"]:
        known = result["contestants"]
        assert set(known) == set(scan_contestants.CONTESTANTS)
        for name in ("ours", "chunks in plain PyTorch", "a loop in Python"):
            assert 0 < known[name]["best_ms"] <= known[name]["median_ms"] and known[name]["error"] < 1e-4
        assert known["chunks in plain PyTorch"]["x_best"] > 0 and "left_out" in known["mamba-ssm"]
    printed = capsys.readouterr().out
    assert "4 routes of 6 channels x 16 steps" in printed and "it takes CUDA tensors" in printed


def test_routed_attention(capsys):
    arguments = ["kernels", "--operator", "bi_level_routing", "--shapes", "tiny", "--seconds", "0.01"]
    assert benchmark.main(arguments) == 0
    printed = capsys.readouterr().out
    assert "torch.gather as released" in printed and "WRONG" not in printed and "left out" not in printed


def test_what_is_wrong_is_not_timed(monkeypatch, capsys):
    right = scan_contestants.CONTESTANTS["ours"]

    def wrong(case, dtype, device):
        function = right(case, dtype, device)
        return lambda *tensors: 1.01 * function(*tensors)

    monkeypatch.setitem(scan_contestants.CONTESTANTS, "ours", wrong)
    arguments = ["--operator", "selective_scan", "--shapes", "tiny", "--seconds", "0.01", "--peers"]
    assert bench_operators.main([*arguments, "--passes", "forward"]) == 1
    assert "WRONG" in capsys.readouterr().out


def test_unknown_shapes(capsys):
    assert bench_operators.main(["--operator", "selective_scan", "--shapes", "huge"]) == 1
    assert "--shapes: no set 'huge' of selective_scan; there are headline, vmamba, tiny" in capsys.readouterr().err


@pytest.mark.parametrize("name", bench_operators.SUBJECTS.values())
def test_every_subject_has_what_the_benchmark_asks_of_it(name):
    subject = importlib.import_module(f"bestiary.tools.{name}")
    assert "headline" in subject.SETS and next(iter(subject.CONTESTANTS)) == "ours"
    assert all(callable(getattr(subject, function)) for function in ("tensors", "output", "truth"))
