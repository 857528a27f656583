"""The benchmark of the backbones on small pictures: what it writes, what it checks, what it refuses."""

import json

import pytest
import torch
from shares import one_day_in

from bestiary.tools import backbone_memory, backbone_pair, bench_backbones, benchmark

CPU = torch.device("cpu")
SMALL = ["--size", "32", "--batch", "1", "--threads", "1", "--seconds", "0.01"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_record_of_a_run(tmp_path, capsys):
    out = tmp_path / "record.json"
    assert benchmark.main(["backbones", "poolformer_s12", *SMALL, "--out", str(out)]) == 0
    record = json.loads(out.read_text())
    (result,) = record["results"]
    assert {"cpu", "cores"} <= set(record["machine"]) and {"torch", "timm", "commit"} <= set(record["versions"])
    assert result["name"] == "poolformer_s12" and 0 < result["deviation"] < 1e-4
    for which in ("inference", "training"):
        one = result["passes"][which]
        for who in ("ours", "timm"):
            assert 0 < one[who]["median"] <= one[who]["best"] and one[who]["calls"] >= 3
        assert one["ratio"]["median"] == pytest.approx(one["ours"]["median"] / one["timm"]["median"])
        assert record["summary"][which]["median"] == pytest.approx(one["ratio"]["median"])
        assert record["summary"][which]["least"] == "poolformer_s12"
    assert result["passes"]["inference"]["ours"]["median"] > result["passes"]["training"]["ours"]["median"]
    printed = capsys.readouterr().out
    assert "poolformer_s12: logits agree to" in printed and "batch 1 at 32, 1 threads" in printed


def test_a_network_that_differs_is_not_timed(monkeypatch, capsys):
    right = backbone_pair.pair("poolformer_s12", 32)
    with torch.no_grad():
        right.ours.head.fc.bias.add_(1.0)
    monkeypatch.setattr(bench_backbones, "pair", lambda name, size: right)
    assert bench_backbones.main(["poolformer_s12", *SMALL]) == 1
    assert "poolformer_s12: WRONG, logits differ from timm's by" in capsys.readouterr().out


def test_layer_scales_do_not_hide_the_blocks():
    ours, theirs = backbone_pair.pair("poolformer_s12", 32)
    scales = [p for name, p in theirs.named_parameters() if "layer_scale" in name]
    assert scales and all(scale.abs().max() > 0.05 for scale in scales)
    assert torch.equal(
        ours.backbone.stages[1].blocks[0].layer_scale1.scale, theirs.stages[1].blocks[0].layer_scale1.scale
    )


@one_day_in(4, 3)
def test_memory_of_a_step_grows_with_the_batch():
    small, large = (backbone_memory.measure("poolformer_s12", "ours", batch, 64, 1, CPU) for batch in (8, 32))
    assert 0 < small < large
    # Gradients of 11.9 M parameters, and at least the output of every block.
    assert large > 4 * 11_900_000


def test_what_cannot_be_compared(capsys):
    for arguments, message in (
        (["poolformer_s13"], "no backbone 'poolformer_s13'"),
        (["--device", "cuda"], "PyTorch finds no CUDA device"),
    ):
        if "cuda" in arguments and torch.cuda.is_available():
            continue
        assert bench_backbones.main([*arguments, *SMALL]) == 1
        assert message in capsys.readouterr().err
