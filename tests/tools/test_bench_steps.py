"""`bestiary benchmark loop` and `scaling`, and the same as parts of `bestiary chaos`."""

import json

import pytest
from rich.table import Table

from bestiary.engine.parallel.choice import KINDS
from bestiary.errors import InputError
from bestiary.tools import bench_loop, bench_scaling, chaos
from bestiary.tools.bench_steps import WARM, parse, short_training, start
from bestiary.tools.parsers import command_parser


@pytest.mark.slow
def test_loop(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["--rounds", "1", "--iterations", "13", "--out", "loop.json"]
    assert bench_loop.main([bench_loop.CONFIGS[0], *arguments]) == 0
    (result,) = json.loads((tmp_path / "loop.json").read_text())["results"]
    assert result["config"] == bench_loop.CONFIGS[0]
    assert all(len(result["seconds"][way]) == 3 and min(result["seconds"][way]) > 0 for way in bench_loop.WAYS)
    low, high = result["interval"]
    assert 0 < low <= result["ratio"] <= high and 0.3 < result["ratio"] < 3  # three pairs are no measurement


@pytest.mark.slow
def test_scaling(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert bench_scaling.main(["--rounds", "1", "--iterations", "13", "--out", "scaling.json"]) == 0
    results = json.loads((tmp_path / "scaling.json").read_text())["results"]
    assert list(results) == [bench_scaling.ALONE, *KINDS]
    weights = {way: row["parameters"] for way, row in results.items()}
    assert weights["ddp"] == weights["zero1"] == weights[bench_scaling.ALONE] > 1.9 * weights["fsdp"]
    assert results["zero1"]["optimizer"] < 0.7 * results["ddp"]["optimizer"]
    assert all(row["pss"] > 2**27 and row["seconds"] > 0 for row in results.values())


def test_the_ratio_is_that_of_neighbours():
    """A machine that becomes three times as slow half way changes nothing."""
    bare = [1.0] * 20 + [3.0] * 20
    result = bench_loop._result("c", dict(bare=bare, bestiary=[1.02 * seconds for seconds in bare]))
    assert result["ratio"] == pytest.approx(1.02) and result["interval"] == pytest.approx([1.02, 1.02])
    noisy = dict(bare=[1.0] * 41, bestiary=[0.9 + 0.01 * k for k in range(41)])
    low, high = bench_loop._result("c", noisy)["interval"]
    assert 0.95 < low < 1.08 < 1.1 < high < 1.25


def test_both_ways_are_of_one_length():
    """The warm iterations are left out of both."""
    turns = bench_loop.InTurnsHook(iter([None] * 3))
    turns.before_train_epoch(None)
    for number in range(3):
        turns.after_train_iter(None, number)
    assert len(turns.ours) == len(turns.bare) == 3 and min(*turns.ours, *turns.bare) >= 0


def test_a_short_training():
    cfg = short_training(bench_loop.CONFIGS[0], 40, "here")
    assert cfg.train_cfg["max_iters"] == 40 and cfg.val_cfg is None and cfg.work_dir == "here"
    assert cfg.default_hooks.checkpoint["interval"] == -1 and cfg.model.backbone.init_cfg is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--iterations", str(WARM)], f"at least {WARM + 1}"), (["--rounds", "0"], "--rounds: at least 1")],
)
def test_numbers_that_measure_nothing(arguments, message, capsys):
    with pytest.raises(SystemExit):
        parse(command_parser("benchmark loop", "words"), arguments)
    assert message in capsys.readouterr().err


def test_a_process_that_fails(tmp_path):
    with pytest.raises(InputError, match="(?s)a run: .*no such luck"):
        start(["-c", "raise SystemExit('no such luck')"], "a run", tmp_path)


@pytest.mark.parametrize(("ratio", "status"), [(bench_loop.MOST, 0), (bench_loop.MOST + 0.001, 1)])
def test_chaos_says_when_the_loop_takes_too_long(monkeypatch, ratio, status):
    monkeypatch.setattr(bench_loop, "compare", lambda *_: ([dict(ratio=0.9), dict(ratio=ratio)], Table()))
    assert chaos.main(["overhead"]) == status


def test_chaos_scaling_loses_nothing(monkeypatch):
    monkeypatch.setattr(
        bench_scaling, "compare", lambda folder, args, say: ({kind: {} for kind in args.kinds}, Table())
    )
    assert chaos.main(["scaling"]) == 0
