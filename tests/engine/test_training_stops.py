"""What a run does when it is asked to stop, when its newest checkpoint is damaged, and when the disk is full."""

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.hooks import Hook

from bestiary.engine.metrics import TopkAccuracy
from bestiary.engine.runner import build_runner
from bestiary.engine.training import Stopped, checkpoint_hook, find_resumable
from bestiary.engine.training.stopping import StopRequest
from bestiary.errors import InputError
from bestiary.registry import HOOKS

EPOCHS = 3  # of two iterations each


@HOOKS.register_module()
class ActHook(Hook):
    """Calls `act(runner)` at a moment, once."""

    def __init__(self, moment, act, at=0):
        self.moment, self.act, self.at = moment, act, at
        setattr(self, moment, self._at)

    def _at(self, runner, *args, **kwargs):
        if self.act is not None and runner.iter == self.at:
            act, self.act = self.act, None
            act(runner)


def run(config, work_dir, moment=None, act=None, at=0, resume=False, hooks=(), **changes):
    """Train the config in `work_dir`; its runner."""
    cfg = config.copy()
    cfg.work_dir, cfg.resume = str(work_dir), resume
    cfg.experiment_name = f"{config.experiment_name}-{os.urandom(4).hex()}"
    cfg.train_cfg.max_epochs = EPOCHS
    cfg.default_hooks = dict(checkpoint=dict(type="CheckpointHook", interval=1))
    cfg.merge_from_dict({key.replace("__", "."): value for key, value in changes.items()})
    runner = build_runner(cfg)
    for hook in (*hooks, *([ActHook(moment, act, at)] if moment else [])):
        runner.register_hook(hook, priority="LOWEST")
    runner.train()
    return runner


def ask(number=signal.SIGTERM):
    return lambda runner: os.kill(os.getpid(), number)


def weights(work_dir):
    return torch.load(Path(work_dir) / f"epoch_{EPOCHS}.pth", weights_only=True)["state_dict"]


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.fixture
def whole(classifier, tmp_path):
    run(classifier, tmp_path / "whole")
    return weights(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_asked_in_an_iteration(classifier, tmp_path, whole, capfd, number):
    before = signal.getsignal(number)
    with pytest.raises(Stopped) as stopped:
        run(classifier, tmp_path / "work", "before_train_iter", ask(number), at=2)
    assert stopped.value.code == 75 and signal.getsignal(number) is before
    assert Path(stopped.value.checkpoint).name == "interrupted_iter_3.pth"
    err = capfd.readouterr().err
    assert f"stopped by {number.name} after iteration 3 of 6" in err and "go on with --resume" in err
    run(classifier, tmp_path / "work", resume=True)
    assert same(weights(tmp_path / "work"), whole)
    assert not list((tmp_path / "work").glob("interrupted*"))  # the next checkpoint has made it superfluous


def test_asked_in_a_validation(classifier, tmp_path, whole):
    """It is given up, made when the run goes on, and the averaged weights do not stay in the model."""
    ema = [dict(type="EMAHook", momentum=0.5)]
    run(classifier, tmp_path / "averaged", custom_hooks=ema)
    with pytest.raises(Stopped) as stopped:
        run(classifier, tmp_path / "work", "before_val_iter", ask(), at=2, custom_hooks=ema)
    assert Path(stopped.value.checkpoint).name == "epoch_1.pth"  # it was saved before the validation
    validated = []
    run(
        classifier,
        tmp_path / "work",
        "before_val_epoch",
        lambda runner: validated.append(runner.iter),
        at=2,
        resume=True,
        custom_hooks=ema,
    )
    assert validated == [2]
    assert same(weights(tmp_path / "work"), weights(tmp_path / "averaged"))


def test_asked_in_a_validation_that_nothing_was_saved_before(classifier, tmp_path):
    settings = dict(custom_hooks=[dict(type="EMAHook", momentum=0.5)])
    settings["default_hooks__checkpoint"] = dict(type="CheckpointHook", interval=EPOCHS)
    run(classifier, tmp_path / "averaged", **settings)
    with pytest.raises(Stopped) as stopped:
        run(classifier, tmp_path / "work", "before_val_iter", ask(), at=2, **settings)
    assert Path(stopped.value.checkpoint).name == "interrupted_iter_2.pth"
    run(classifier, tmp_path / "work", resume=True, **settings)
    assert same(weights(tmp_path / "work"), weights(tmp_path / "averaged"))


def test_asked_twice_it_ends_at_once():
    program = (
        "import os, signal, time\nfrom bestiary.engine.training.stopping import StopRequest\n"
        "with StopRequest().listening():\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('first', flush=True)\n"
        "    os.kill(os.getpid(), signal.SIGTERM); time.sleep(5); print('second', flush=True)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == -signal.SIGTERM and done.stdout == "first\n"
    assert done.stderr.startswith("SIGTERM: the run saves at the end of this iteration")


def test_nobody_asked():
    request = StopRequest()
    with request.listening():
        assert not request.after_iteration() and not request.everywhere()


def damage(path, how):
    data = bytearray(path.read_bytes())
    if how == "cut off":
        path.write_bytes(data[: len(data) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    else:  # one bit of a weight, which torch.load would not notice
        place = data.index(b"data/0") + 100
        data[place] ^= 1
        path.write_bytes(data)


@pytest.mark.parametrize("how", ["cut off", "empty", "one bit"])
def test_a_damaged_checkpoint_is_passed_over_and_named(classifier, tmp_path, whole, how):
    work = tmp_path / "work"
    run(classifier, work)
    damage(work / f"epoch_{EPOCHS}.pth", how)
    found = find_resumable(work)
    assert found.path.name == f"epoch_{EPOCHS - 1}.pth" and found.iteration == 2 * (EPOCHS - 1)
    assert len(found.passed) == 1 and f"epoch_{EPOCHS}.pth" in found.passed[0]
    run(classifier, work, resume=True)
    assert same(weights(work), whole)
    log = "".join(path.read_text() for path in work.rglob("*.log"))
    assert f"passed over: {work}/epoch_{EPOCHS}.pth" in log


def test_all_are_damaged(classifier, tmp_path):
    work = tmp_path / "work"
    run(classifier, work, default_hooks__checkpoint=dict(type="CheckpointHook", max_keep_ckpts=1))
    damage(work / f"epoch_{EPOCHS}.pth", "cut off")
    with pytest.raises(InputError, match="none of its checkpoints can be gone on from.*Remove them to start anew"):
        find_resumable(work)


def test_nothing_to_resume_from_is_the_beginning(classifier, tmp_path, whole, capsys):
    run(classifier, tmp_path / "work", resume=True)
    assert same(weights(tmp_path / "work"), whole)
    assert "has no checkpoint to resume from: the run starts at its beginning" in capsys.readouterr().out


@pytest.fixture
def limits():
    """Sets how many bytes a file may have, as a quota does, until the end of the test."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (before[0] if size is None else size, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


KEEP_ONE = dict(default_hooks__checkpoint=dict(type="CheckpointHook", interval=1, max_keep_ckpts=1))


def test_a_full_disk_in_the_middle(classifier, tmp_path, whole, limits):
    """The second checkpoint finds no room: the first stays, the run goes on, and the third replaces the first."""
    work, seen = tmp_path / "work", {}

    def fill(runner):
        limits(2000)

    def make_room(runner):
        limits(None)
        seen["then"] = sorted(path.name for path in work.glob("*.pth*"))

    hooks = [ActHook("before_train_epoch", fill, 2), ActHook("before_train_epoch", make_room, 4)]
    run(classifier, work, hooks=hooks, **KEEP_ONE)
    assert seen["then"] == ["epoch_1.pth"]
    assert sorted(path.name for path in work.glob("*.pth*")) == [f"epoch_{EPOCHS}.pth"]
    assert same(weights(work), whole)


def test_a_full_disk_at_the_end(classifier, tmp_path, whole, limits):
    work = tmp_path / "work"
    with pytest.raises(InputError, match=r"epoch_3.pth: not written: .*earlier checkpoints are untouched. Make room"):
        run(classifier, work, "before_train_epoch", lambda runner: limits(2000), at=4, **KEEP_ONE)
    limits(None)
    assert [path.name for path in work.glob("*.pth*")] == ["epoch_2.pth"]
    run(classifier, work, resume=True, **KEEP_ONE)
    assert same(weights(work), whole)


BEST = dict(default_hooks__checkpoint=dict(type="CheckpointHook", interval=2, save_best="accuracy/top1"))


def test_a_full_disk_when_the_best_is_written(classifier, tmp_path, whole, limits, capsys, monkeypatch):
    """The run goes on with the former best; the next that is better than that one replaces it."""
    work, seen, scores = tmp_path / "work", {}, iter([10.0, 30.0, 20.0, 5.0])
    monkeypatch.setattr(TopkAccuracy, "compute_metrics", lambda self, results: {"top1": next(scores)})

    def make_room(runner):
        limits(None)
        seen["then"] = sorted(path.name for path in work.glob("*.pth*"))

    hooks = [ActHook("before_val_epoch", lambda runner: limits(2000), 4), ActHook("before_train_epoch", make_room, 4)]
    run(classifier, work, hooks=hooks, **BEST)
    assert seen["then"] == ["best_accuracy_top1_epoch_1.pth", "epoch_2.pth"]
    assert "best_accuracy_top1_epoch_2.pth: not written: File too large; earlier" in capsys.readouterr().out
    assert [path.name for path in work.glob("best*")] == ["best_accuracy_top1_epoch_3.pth"]
    assert same(weights(work), whole)


def test_the_former_best_of_a_killed_process_is_removed(classifier, tmp_path, monkeypatch):
    """It was killed when the new best and the checkpoint that names it had been written."""
    work, seen, scores = tmp_path / "work", {}, iter([10.0, 30.0, 20.0, 5.0])
    monkeypatch.setattr(TopkAccuracy, "compute_metrics", lambda self, results: {"top1": next(scores)})
    erase = checkpoint_hook._erase

    def die(path):
        if path.name.startswith("best"):
            seen["there"] = sorted(path.name for path in work.glob("best*"))
            raise KeyboardInterrupt
        erase(path)

    monkeypatch.setattr(checkpoint_hook, "_erase", die)
    saving = dict(BEST["default_hooks__checkpoint"], interval=1)
    with pytest.raises(KeyboardInterrupt):
        run(classifier, work, default_hooks__checkpoint=saving)
    assert seen["there"] == ["best_accuracy_top1_epoch_1.pth", "best_accuracy_top1_epoch_2.pth"]
    monkeypatch.setattr(checkpoint_hook, "_erase", erase)
    run(classifier, work, resume=True, default_hooks__checkpoint=saving)
    assert [path.name for path in work.glob("best*")] == ["best_accuracy_top1_epoch_2.pth"]


def test_what_a_killed_process_left_is_removed(classifier, tmp_path):
    """It was killed between the writing of a checkpoint and the removal of the outdated one."""
    work = tmp_path / "work"
    first = {}
    run(
        classifier,
        work,
        "before_train_epoch",
        lambda runner: first.update(data=(work / "epoch_1.pth").read_bytes()),
        at=2,
        train_cfg__max_epochs=2,
        **KEEP_ONE,
    )
    (work / "epoch_1.pth").write_bytes(first["data"])
    (work / "epoch_2.pth.77.part").write_bytes(b"half")
    run(classifier, work, resume=True, **KEEP_ONE)
    assert sorted(path.name for path in work.glob("*.pth*")) == ["epoch_3.pth"]


@pytest.mark.parametrize("save_best", [None, "accuracy/top1"])
def test_a_validation_is_made_again_only_where_the_run_depends_on_it(classifier, tmp_path, save_best):
    """The last checkpoint is written before the validation; a longer run goes on from it."""
    saving = dict(default_hooks__checkpoint__save_best=save_best)
    run(classifier, tmp_path / "work", train_cfg__max_epochs=2, **saving)
    best = tmp_path / "work" / "best_accuracy_top1_epoch_1.pth"
    assert best.exists() is (save_best is not None)
    validated = []
    at = [ActHook("before_val_epoch", lambda runner: validated.append(runner.iter), iteration) for iteration in (4, 6)]
    run(classifier, tmp_path / "work", resume=True, hooks=at, **saving)
    assert validated == ([6] if save_best is None else [4, 6])


def test_another_batch_size_is_said(classifier, tmp_path):
    with pytest.raises(Stopped):
        run(classifier, tmp_path / "work", "before_train_iter", ask(), at=2)
    run(classifier, tmp_path / "work", resume=True, train_dataloader__batch_size=2)
    log = "".join(path.read_text() for path in (tmp_path / "work").rglob("*.log"))
    assert "the run is not what it was when it was saved (batch_size 3 -> 2)" in log


def test_another_schedule_is_said(classifier, tmp_path):
    with pytest.raises(Stopped):
        run(classifier, tmp_path / "work", "before_train_iter", ask(), at=2)
    other = [dict(type="LinearLR", start_factor=0.1, by_epoch=False, end=5)]
    run(classifier, tmp_path / "work", resume=True, param_scheduler=other)
    log = "".join(path.read_text() for path in (tmp_path / "work").rglob("*.log"))
    assert "param_scheduler[0] ends at 2 in the checkpoint and at 5 in the config" in log


def test_metrics_are_written_whole(classifier, tmp_path):
    run(classifier, tmp_path / "work")
    assert json.loads((tmp_path / "work" / "metrics.json").read_text())["iter"] == 2 * EPOCHS
