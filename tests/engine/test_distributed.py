"""Two processes do what one does: the same step, the same evaluation, and (slow) the same score of a trained model."""

import json
import math
import os
import pickle
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_digits

from bestiary import tools
from bestiary.backbones.reading import read_checkpoint
from bestiary.tools import test as test_tool
from bestiary.tools import train as train_tool

TOOLS = Path(tools.__file__).parent


# Gloo's workers hold tensors: one left behind while the interpreter ends aborts the process, now and then.
GUARDED = """
import os, sys
from bestiary.tools import train
status = train.main(sys.argv[1:])
names = [open(f"/proc/self/task/{task}/comm").read() for task in os.listdir("/proc/self/task")]
left = [name for name in names if "gloo_runloop" in name]
assert not left, f"threads outlive the run: {left}"
sys.exit(status)
"""


def run(tool, processes, work_dir, config, *argv):
    """A tool in this process, or in two that torchrun starts; returns the content of metrics.json."""
    argv = [*map(str, (config, *argv)), "--work-dir", str(work_dir)]
    if processes == 1:
        assert {"train": train_tool, "test": test_tool}[tool].main(argv) == 0
    else:
        script = TOOLS / f"{tool}.py"
        if tool == "train" and sys.platform == "linux":
            script = Path(work_dir).with_suffix(".py")
            script.write_text(GUARDED, encoding="utf-8")
        torchrun(processes, script, *argv, "--launcher", "pytorch")
    return json.loads((Path(work_dir) / "metrics.json").read_text())


def torchrun(processes, *argv):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={processes}", f"--master_port={port}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    done = subprocess.run([*command, *argv], env=env, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]


def test_a_step_of_two_processes_is_the_step_of_one(classifier, tmp_path):
    """PoolFormer has no batch norm: halves of a batch give the gradient of the whole. Two steps, six pictures."""
    classifier.optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="SGD", lr=0.05, momentum=0.9))
    classifier.param_scheduler = []
    classifier.train_cfg.max_epochs = 2
    classifier.dump(tmp_path / "config.py")
    options = {
        "one": (1, "train_dataloader.batch_size=6"),
        "two": (2, "train_dataloader.batch_size=3"),
        # What a process of the two would learn without the other.
        "half": (1, "train_dataloader.batch_size=3", "train_dataloader.dataset.indices=[0,2,4]"),
    }
    weights = {}
    for name, (processes, *changes) in options.items():
        run("train", processes, tmp_path / name, tmp_path / "config.py", "--cfg-options", *changes)
        checkpoint = read_checkpoint(tmp_path / name / "epoch_2.pth")
        assert checkpoint["meta"]["iter"] == 2
        state = checkpoint["state_dict"]
        weights[name] = torch.cat([state[key].flatten().double() for key in sorted(state)])
    difference = (weights["two"] - weights["one"]).abs().max()
    alone = (weights["half"] - weights["one"]).abs().max()
    assert difference < 1e-6 and alone > 1e-3, (difference, alone)


def test_two_processes_evaluate_as_one(classifier, class_folders, tmp_path):
    """Five pictures: two processes get three each, one of them twice, and it has to count once."""
    (class_folders / "b" / "2.jpg").unlink()
    classifier.train_dataloader.dataset.indices = [0, 3]
    classifier.test_dataloader = classifier.val_dataloader
    classifier.test_dataloader.batch_size = 2
    classifier.test_evaluator, classifier.test_cfg = classifier.val_evaluator, dict(type="TestLoop")
    classifier.dump(tmp_path / "config.py")
    run("train", 1, tmp_path / "train", tmp_path / "config.py")
    found = {}
    for processes in (1, 2):
        out = tmp_path / f"{processes}.pkl"
        argv = [tmp_path / "config.py", tmp_path / "train" / "epoch_1.pth", "--out", out]
        metrics = run("test", processes, tmp_path / str(processes), *argv)["metrics"]
        found[processes] = metrics, pickle.loads(out.read_bytes())
    (one, ones), (two, twos) = found[1], found[2]
    assert one == two and one["accuracy/top1"] in (0.2, 0.4, 0.6, 0.8, 0.0, 1.0)
    paths = [Path(sample["img_path"]).relative_to(class_folders).as_posix() for sample in twos]
    assert paths == ["a/0.jpg", "a/1.jpg", "a/2.jpg", "b/0.jpg", "b/1.jpg"]
    scores = [torch.stack([sample["pred_score"] for sample in samples]) for samples in (ones, twos)]
    torch.testing.assert_close(scores[1], scores[0])
    assert len(scores[0].unique(dim=0)) == 5  # five pictures, five answers


def write_digits(root):
    """scikit-learn's digits as 32 x 32 pictures without a background, which are learnt in seconds; pictures a split."""
    digits, counts = load_digits(), dict(train=0, val=0)
    for number, (values, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        split = "train" if number % 9 < 5 else "val"
        folder = root / split / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        picture = Image.fromarray((values * 15.9).astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC)
        picture.save(folder / f"{number}.png")
        counts[split] += 1
    return counts


@pytest.mark.slow
def test_two_processes_learn_as_well_as_one(tmp_path):
    """The same effective batch: 2 x 16 and 1 x 32.

    The score may be off from the mean of two seeds of one process by what these two differ, and 3 standard deviations
    of the difference of two scores on as many pictures.
    """
    counts = write_digits(tmp_path / "digits")
    data = [f"{split}_dataloader.dataset.data_root={tmp_path}/digits" for split in ("train", "val", "test")]
    workers = [f"{split}_dataloader.num_workers=1" for split in ("train", "val")]
    schedule = [f"{key}=5" for key in ("train_cfg.max_epochs", "train_cfg.val_interval", "param_scheduler.1.end")]
    schedule.append("param_scheduler.0.end=20")
    scores = {}
    for name, processes, seed in (("one", 1, 1), ("other", 1, 2), ("two", 2, 1)):
        options = [*data, *workers, *schedule, f"train_dataloader.batch_size={32 // processes}"]
        argv = ["quickstart/classifier_poolformer_digits", "--seed", seed, "--cfg-options", *options]
        scores[name] = run("train", processes, tmp_path / name, *argv)["metrics"]["accuracy/top1"]
    mean = (scores["one"] + scores["other"]) / 2
    margin = 3 * math.sqrt(2 * mean * (1 - mean) / counts["val"])
    print(scores, f"margin {margin:.4f}")
    assert min(scores.values()) > 0.8, scores  # chance has 0.1
    assert abs(scores["two"] - mean) <= abs(scores["one"] - scores["other"]) + margin, scores
