"""The ablation of token mixers: which are trained, what the table says."""

import json
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from bestiary.backbones import mixers
from bestiary.engine.configs import load_config
from bestiary.tools import ablate as tool

NAMES = ("identity", "pooling", "block_and_grid_attention")
SCORES = dict(identity=0.5, pooling=0.75, block_and_grid_attention=0.625)


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """Names that are trained; a training leaves what a real one leaves, `fails` those that fail."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tool, "SECONDS", 0.001)
    asked, fails = [], set()

    real = subprocess.run

    def run(command, **kwargs):
        if command[0] != sys.executable:
            return real(command, **kwargs)
        command = command[3:]
        if command[0] == "data":
            asked.append("data")
            Path("data/digits").mkdir(parents=True)
            Path("data/digits/digits.json").write_text("{}")
            return SimpleNamespace(returncode=0)
        folder = Path(command[command.index("--work-dir") + 1])
        asked.append(folder.name)
        kwargs["stdout"].write("epoch 1\nthe learning rate is too high\n")
        (folder / "metrics.json").write_text(json.dumps({"metrics": {"accuracy/top1": SCORES[folder.name]}}))
        return SimpleNamespace(returncode=int(folder.name in fails))

    monkeypatch.setattr(subprocess, "run", run)
    return SimpleNamespace(asked=asked, fails=fails)


def test_the_config_has_every_mixer_of_the_zoo():
    given = load_config(tool.CONFIG).token_mixers.values()
    flat = [one for mixer in given for one in ([mixer] if isinstance(mixer, str | dict) else mixer)]
    used = {one if isinstance(one, str) else one["type"] for one in flat}
    snake = {re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower() for name in mixers.__all__ if name != "build_mixer"}
    assert used == snake


def test_a_table_of_the_best_first(calls, capsys):
    assert tool.main(["--fast", "--jobs", "1", "--mixers", *NAMES]) == 0
    assert calls.asked == ["data", *NAMES]
    record = json.loads(Path("work_dirs/ablations/token_mixers_digits/fast/ablation.json").read_text())
    results = record["results"]
    assert list(results) == ["pooling", "block_and_grid_attention", "identity"]
    assert {name: one["top1"] for name, one in results.items()} == SCORES
    parameters = {name: one["parameters"] for name, one in results.items()}
    assert parameters["pooling"] == parameters["identity"] < parameters["block_and_grid_attention"]
    assert results["identity"]["multiply_adds"] < results["block_and_grid_attention"]["multiply_adds"]
    assert all(one["pictures_a_second"] > 0 for one in results.values())
    out = capsys.readouterr().out
    assert out.index("pooling  ") < out.index("identity  ") and "0.750" in out


def test_configs_are_written_and_what_is_done_is_not_done_again(calls):
    mixers = ["--jobs", "1", "--mixers", "pooling", "identity"]
    assert tool.main(["--fast", *mixers]) == 0
    folder = Path("work_dirs/ablations/token_mixers_digits")
    written = load_config(str(folder / "fast/pooling.py"))
    assert list(written.model.backbone.token_mixers) == ["pooling"] * 4
    assert written.train_cfg.max_epochs == 3 and written.param_scheduler[1].end == 3
    assert written.model.backbone.arch.depths == (1, 1, 1, 1) and written.train_dataloader.batch_size == 16
    assert [step.type for step in written.train_dataloader.dataset.pipeline] == ["LoadPicture", "PackImageInputs"]
    assert written.train_cfg.type == "EpochBasedTrainLoop" and "fast" not in written
    calls.asked.clear()
    assert tool.main(["--fast", *mixers]) == 0
    assert calls.asked == []
    (folder / "fast/identity.py").write_text("model = None")  # another config
    assert tool.main(["--fast", *mixers]) == 0
    assert calls.asked == ["identity"]
    calls.asked.clear()
    assert tool.main(["--fast", "--fresh", *mixers]) == 0
    assert tool.main(mixers) == 0
    assert calls.asked == ["pooling", "identity"] * 2
    assert load_config(str(folder / "full/pooling.py")).train_cfg.max_epochs == 8


def test_a_list_of_mixers_has_one_a_stage():
    cfg = load_config(tool.CONFIG)
    changed = tool.with_mixer(cfg, cfg.token_mixers.block_and_grid_attention, fast=False)
    assert list(changed.model.backbone.token_mixers) == ["block_attention", "grid_attention"] * 2
    assert list(cfg.model.backbone.token_mixers) == ["identity"] * 4


def test_messages(calls, capsys):
    assert tool.main(["--mixers", "poling"]) == 1
    assert "--mixers poling: the config's token_mixers are identity, pooling" in capsys.readouterr().err
    assert tool.main(["quickstart/classifier_poolformer_digits"]) == 1
    assert "the config has no token_mixers, picture_size" in capsys.readouterr().err
    calls.fails.add("pooling")
    assert tool.main(["--jobs", "1", "--mixers", "pooling"]) == 1
    err = capsys.readouterr().err
    assert "pooling ended with status 1: bestiary train" in err and "the learning rate is too high" in err


@pytest.mark.slow
def test_a_mixer_learns_the_digits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert tool.main(["--fast", "--mixers", "pooling"]) == 0
    record = json.loads(Path("work_dirs/ablations/token_mixers_digits/fast/ablation.json").read_text())
    assert record["results"]["pooling"]["top1"] >= 0.8
