"""bestiary train and bestiary test: a run, its ways to go on, and each kind of bad input."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from shares import one_day_in
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from bestiary.errors import InputError
from bestiary.tools import infer as infer_tool
from bestiary.tools import test as test_tool
from bestiary.tools import train as train_tool

TOOLS = Path(train_tool.__file__).parent


@pytest.fixture(scope="module")
def trained(tiny, tmp_path_factory):
    """The work directory of a segmentor after 4 iterations."""
    work_dir = tmp_path_factory.mktemp("trained")
    assert train_tool.main([str(tiny / "segmentation.py"), "--work-dir", str(work_dir), "--seed", "5"]) == 0
    return work_dir


def fails(capsys, main, *argv):
    """The message of a command that ends in bad input."""
    assert main([str(part) for part in argv]) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, err
    return errors[0]


def test_training_leaves_checkpoint_scores_and_log(trained):
    assert (trained / "iter_4.pth").is_file() and list(trained.rglob("*.log"))
    content = json.loads((trained / "metrics.json").read_text())
    assert (content["split"], content["iter"]) == ("val", 4) and content["seconds"] > 0
    assert 0 <= content["metrics"]["mIoU"] <= 1 and 0 < content["metrics"]["aAcc"] <= 1
    meta = torch.load(trained / "iter_4.pth", weights_only=True)["meta"]
    assert meta["seed"] == 5


def test_what_is_printed(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    options = ["--amp", "--threads", "1", "--cfg-options", "train_cfg.max_iters=2", "train_dataloader.batch_size=2"]
    assert train_tool.main([str(tiny / "segmentation"), *options]) == 0
    out = capsys.readouterr().out
    assert "into work_dirs/segmentation" in out and "bfloat16" in out
    assert re.search(r"train iteration 2/2  100%  \d+\.\d pictures/s  0 s left  loss \d", out)
    assert "last checkpoint: " in out and "bestiary infer" in out and "mIoU" in out
    assert "System environment" not in out
    assert Path("work_dirs/segmentation/iter_2.pth").is_file()


def test_precision_memory_order_and_average_by_options(tiny, tmp_path, capsys):
    argv = [str(tiny / "segmentation.py"), "--work-dir", str(tmp_path), "--cfg-options", "train_cfg.max_iters=2"]
    assert train_tool.main([*argv, "--amp", "bf16", "--channels-last", "--ema", "0.5"]) == 0
    out = capsys.readouterr().out
    assert "mixed precision: optim_wrapper.type='AmpOptimWrapper', bfloat16 on the CPU" in out
    assert "channels last: convolutions and pictures as (B, H, W, C)" in out
    assert "weights are averaged with momentum 0.5: the average is evaluated" in out
    saved = torch.load(tmp_path / "iter_2.pth", weights_only=True)
    raw, average = saved["ema_state_dict"], saved["state_dict"]
    assert raw.keys() - {"steps"} == {f"module.{key}" for key in average}
    name = "decode_head.conv_seg.weight"
    assert not torch.equal(raw[f"module.{name}"], average[name])
    if not torch.cuda.is_available():
        assert "amp: float16 does not train on a CPU: take bf16" in fails(
            capsys, train_tool.main, *argv, "--amp", "fp16"
        )
    assert "ema: momentum 7.0 must be in 0..1" in fails(capsys, train_tool.main, *argv, "--ema", "7")


def test_resume_goes_on(tiny, trained, tmp_path, capsys):
    argv = [str(tiny / "segmentation.py"), "--work-dir", str(tmp_path)]
    more = ["--cfg-options", "train_cfg.max_iters=6"]
    assert train_tool.main([*argv, "--resume", str(trained / "iter_4.pth"), *more]) == 0
    out = capsys.readouterr().out
    assert "train iteration 5/6" in out and "iteration 4/6" not in out
    assert train_tool.main([*argv, "--resume", "--cfg-options", "train_cfg.max_iters=8"]) == 0
    out = capsys.readouterr().out
    assert f"resumed from {tmp_path / 'iter_6.pth'}, after iteration 6" in out
    assert "train iteration 7/8" in out and "iteration 6/8" not in out
    state = torch.load(tmp_path / "iter_8.pth", weights_only=True)
    assert state["meta"]["iter"] == 8 and state["optimizer"]["state"][0]["step"] == 8


def test_evaluation_gives_the_scores_of_training(tiny, trained, tmp_path, capsys):
    argv = [str(tiny / "segmentation.py"), str(trained / "iter_4.pth"), "--work-dir", str(tmp_path)]
    assert test_tool.main([*argv, "--out", str(tmp_path / "all.pkl"), "--show-dir", str(tmp_path / "drawn")]) == 0
    content = json.loads((tmp_path / "metrics.json").read_text())
    assert content["split"] == "test" and content["checkpoint"] == str(trained / "iter_4.pth")
    assert content["metrics"] == json.loads((trained / "metrics.json").read_text())["metrics"]
    assert len(list((tmp_path / "drawn").glob("*.png"))) == 4 and (tmp_path / "all.pkl").is_file()
    out = capsys.readouterr().out
    assert "test  aAcc" in out and "mIoU" in out


def test_load_from_has_to_fit_unless_partial(tiny, trained, tmp_path, capsys):
    state = torch.load(trained / "iter_4.pth", weights_only=True)["state_dict"]
    for name in ("decode_head.conv_seg.weight", "decode_head.conv_seg.bias"):
        state[name] = torch.cat([state[name], state[name][:1]])  # of a model for 4 classes; the data has 3
    torch.save({"state_dict": state}, tmp_path / "four.pth")
    argv = [tiny / "segmentation.py", "--work-dir", tmp_path, "--load-from", tmp_path / "four.pth"]
    message = fails(capsys, train_tool.main, *argv)
    assert "four.pth: does not fit this EncoderDecoder (the class counts differ): 2 mis-shaped" in message
    assert "decode_head.conv_seg.weight [4, 16, 1, 1] in the file, [3, 16, 1, 1] in the model" in message


class Planted:
    """Unpickling it makes a folder."""

    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_files_that_are_no_checkpoints(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder.pth").mkdir()
    Path("empty.pth").touch()
    Path("text.pth").write_text("hello")
    torch.save({"state_dict": {"w": torch.zeros(2)}, "more": Planted()}, "planted.pth")
    messages = {
        "folder.pth": "error: folder.pth: a folder, not a checkpoint",
        "empty.pth": "error: empty.pth: not a checkpoint: the file is empty",
        "text.pth": "error: text.pth: not a checkpoint, or one that was cut off (5 bytes)",
        "planted.pth": "error: planted.pth: the file asks for 'posix.mkdir', which no checkpoint of weights needs",
    }
    config, work = tiny / "segmentation.py", ["--work-dir", tmp_path / "w"]
    for name, message in messages.items():
        commands = [
            (train_tool.main, [config, "--load-from", name, *work]),
            (train_tool.main, [config, "--resume", name, *work]),
            (test_tool.main, [config, name, *work]),
            (infer_tool.main, [config, name, tiny / "seg" / "images" / "val", "--out", tmp_path / "o"]),
        ]
        for main, argv in commands:
            assert fails(capsys, main, *argv).startswith(message), (main.__module__, argv)
    assert not Path("planted").exists() and not list(tmp_path.rglob("iter_*.pth"))


def test_weights_alone_cannot_be_resumed(tiny, trained, tmp_path, capsys):
    state = torch.load(trained / "iter_4.pth", weights_only=True)["state_dict"]
    torch.save({"state_dict": state}, tmp_path / "alone.pth")
    argv = [tiny / "segmentation.py", "--work-dir", tmp_path, "--resume", tmp_path / "alone.pth"]
    assert "alone.pth: it has weights, but no state of a run to go on with" in fails(capsys, train_tool.main, *argv)


def test_weights_that_a_config_names_are_looked_for_first(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(train_tool, "build_runner", None)
    options = ["model.backbone.init_cfg.type=Pretrained", "model.backbone.init_cfg.checkpoint=gone/epoch_7.pth"]
    argv = [tiny / "segmentation.py", "--work-dir", tmp_path / "w", "--cfg-options", *options]
    message = fails(capsys, train_tool.main, *argv)
    assert message.startswith("error: gone/epoch_7.pth: no such checkpoint; there is no folder gone either: set ")
    assert (
        "model.backbone.init_cfg.checkpoint" in message and "model.backbone.init_cfg=None to start without" in message
    )
    assert not (tmp_path / "w").exists()


def test_partial_load(tiny, trained, tmp_path, capsys):
    state = torch.load(trained / "iter_4.pth", weights_only=True)["state_dict"]
    torch.save({"state_dict": {k: v for k, v in state.items() if "conv_seg" not in k}}, tmp_path / "part.pth")
    argv = [str(tiny / "segmentation.py"), "--work-dir", str(tmp_path), "--load-from", str(tmp_path / "part.pth")]
    message = fails(capsys, train_tool.main, *argv)
    assert "2 missing (decode_head.conv_seg.weight, decode_head.conv_seg.bias)" in message
    assert train_tool.main([*argv, "--load-partial", "--cfg-options", "train_cfg.max_iters=2"]) == 0
    assert "loaded in part" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["model.backbone.type=bestiary.PoolFomer"], "no model registry (did you mean 'bestiary.PoolFormer'?)"),
        (["model.backbone.depht=3"], "depht"),
        (["model.decode_head.in_channels=32"], "in_channels [32] do not fit PoolFormer"),
        (["train_dataloader.dataset.pipeline.0.type=LoadImageFromFil"], "did you mean 'LoadImageFromFile'?"),
        (["train_dataloader=None"], "the config has no train_dataloader"),
        (["val_evaluator.type=IoUMetrik"], "is in no metric registry (did you mean 'IoUMetric'?)"),
    ],
)
def test_a_config_that_does_not_fit(tiny, tmp_path, capsys, options, message):
    argv = [tiny / "segmentation.py", "--work-dir", tmp_path, "--cfg-options", *options]
    assert message in fails(capsys, train_tool.main, *argv)
    assert not list(tmp_path.rglob("*.pth"))


def test_other_bad_input(tiny, trained, tmp_path, capsys, monkeypatch):
    config = tiny / "segmentation.py"
    work = ["--work-dir", tmp_path]
    assert "segmentatio.py: no such config file" in fails(capsys, train_tool.main, tiny / "segmentatio.py", *work)
    assert "nothing.pth: no such checkpoint" in fails(
        capsys, train_tool.main, config, *work, "--load-from", "nothing.pth"
    )
    for option in ("--load-from", "--resume"):
        assert "no.pth: no such checkpoint" in fails(capsys, train_tool.main, config, *work, option, "no.pth")
    assert "give one" in fails(capsys, train_tool.main, config, *work, "--resume", "--load-from", "x.pth")
    assert "auto_scale_lr.base_batch_size" in fails(capsys, train_tool.main, config, *work, "--auto-scale-lr")
    monkeypatch.delenv("RANK", raising=False)
    assert "start the command with `torchrun" in fails(capsys, train_tool.main, config, *work, "--launcher", "pytorch")
    assert "name it .pkl" in fails(capsys, test_tool.main, config, trained / "iter_4.pth", *work, "--out", "x.json")
    assert "nothing.pth: no such checkpoint" in fails(capsys, test_tool.main, config, "nothing.pth", *work)
    (tmp_path / "text.pth").write_text("hello")
    assert "text.pth: not a checkpoint" in fails(capsys, test_tool.main, config, tmp_path / "text.pth", *work)
    other = fails(capsys, test_tool.main, tiny / "detection.py", trained / "iter_4.pth", *work)
    assert "iter_4.pth: does not fit this MaskRCNN (it is of another model or another config)" in other
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert "add --launcher pytorch" in fails(capsys, train_tool.main, config, *work)


def test_option_without_a_value_is_a_usage_error(tiny, capsys):
    with pytest.raises(SystemExit) as caught:
        train_tool.main([str(tiny / "segmentation.py"), "--cfg-options", "a.b"])
    assert caught.value.code == 2 and "'a.b' is not key=value" in capsys.readouterr().err


@one_day_in(4, 9)
def test_as_a_file_with_and_without_debug(tmp_path):
    (tmp_path / "bad.py").write_text("a = (1\n")
    command = [sys.executable, TOOLS / "train.py", "bad.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "error: bad.py:1: not a config in Python" in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
    done = subprocess.run([*command, "--debug"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" in done.stderr


def test_data_are_checked_before_anything_is_built(tiny, tmp_path, capsys, monkeypatch):
    asked = []

    def refuse(cfg, splits, *_):
        asked.append(list(splits))
        raise InputError(f"{cfg.train_dataloader.dataset.data_root}: no such folder; make it")

    monkeypatch.setattr(train_tool, "refuse_mistakes", refuse)
    monkeypatch.setattr(test_tool, "check_inputs", refuse)
    monkeypatch.setattr(train_tool, "build_runner", None)
    monkeypatch.setattr(test_tool, "build_runner", None)
    config, work = tiny / "segmentation.py", tmp_path / "w"
    assert "no such folder; make it" in fails(capsys, train_tool.main, config, "--work-dir", work)
    (tmp_path / "w.pth").write_text("weights")
    assert "no such folder; make it" in fails(capsys, test_tool.main, config, tmp_path / "w.pth", "--work-dir", work)
    assert asked == [["train", "val"], ["test"]] and not work.exists()


def test_log_options(tiny, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    argv = [tiny / "segmentation.py", "--work-dir", tmp_path / "w", "--log"]
    message = fails(capsys, train_tool.main, *argv, "tensorbord")
    assert message.startswith("error: --log: no logger 'tensorbord' (did you mean 'tensorboard'?)")
    options = ["wandb,tensorboard", "--log-checkpoints", "--cfg-options", "train_cfg.max_iters=2"]
    assert train_tool.main([str(part) for part in (*argv, *options)]) == 0
    out = capsys.readouterr().out
    assert "logged by wandb, tensorboard" in out and f"wandb sync {tmp_path}/w/wandb/offline-run-" in out
    assert f"tensorboard --logdir {tmp_path}/w/tensorboard" in out
    argv = [
        tiny / "segmentation.py",
        tmp_path / "w" / "iter_2.pth",
        "--work-dir",
        tmp_path / "w",
        "--log",
        "tensorboard",
    ]
    assert test_tool.main([str(part) for part in argv]) == 0
    (folder,) = (tmp_path / "w" / "tensorboard").glob("*_test")
    board = EventAccumulator(str(folder)).Reload()
    scores = json.loads((tmp_path / "w" / "metrics.json").read_text())["metrics"]
    assert board.Scalars("test/mIoU")[0].value == pytest.approx(scores["mIoU"])  # fractions, as in metrics.json
    assert any(tag.startswith("test/predictions") for tag in board.Tags()["images"])


@pytest.mark.slow
def test_only_the_first_process_logs(tiny, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    argv = [
        str(TOOLS / "train.py"),
        str(tiny / "segmentation.py"),
        "--launcher",
        "pytorch",
    ]
    done = subprocess.run(
        [*torchrun, *argv, "--work-dir", str(tmp_path), "--loggers", "wandb,tensorboard"],
        env={**os.environ, "WANDB_MODE": "offline", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.glob("wandb/offline-run-*/*.wandb"))) == 1
    assert len(list(tmp_path.glob("tensorboard/*/events*"))) == 1 and done.stdout.count("wandb sync") == 1
