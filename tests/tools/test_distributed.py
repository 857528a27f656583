"""Two processes on gloo, started by torchrun as a user does."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from bestiary import tools
from bestiary.checkpoints.loading import read_checkpoint
from bestiary.engine.report.evidence import read_evidence

TRAIN = Path(tools.__file__).parent / "train.py"


def torchrun(*argv):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", f"--master_port={port}"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    argv = map(str, argv)
    return subprocess.run([*command, TRAIN, *argv], env=env, capture_output=True, text=True, timeout=300)


def test_two_processes_train(tiny, tmp_path):
    options = ["--cfg-options", "train_dataloader.batch_size=2", "train_cfg.max_iters=2"]
    done = torchrun(tiny / "segmentation.py", "--launcher", "pytorch", "--work-dir", tmp_path, "--seed", "1", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("train iteration 2/2  100%") == 1 and "by 2 processes" in done.stdout
    assert json.loads((tmp_path / "metrics.json").read_text())["metrics"]["aAcc"] > 0
    assert read_checkpoint(tmp_path / "iter_2.pth")["meta"]["iter"] == 2
    kept = read_evidence(tmp_path)  # each process writes its part, the first one the page
    assert (kept.parts, kept.world, kept.pictures, kept.arrays["confusion"].sum()) == (2, 2, 4, 4 * 64 * 64)
    assert done.stdout.count("report: ") == 1 and (tmp_path / "report.html").is_file()


@pytest.mark.slow
def test_bad_input_is_told_once(tiny, tmp_path):
    launch = ["--launcher", "pytorch", "--work-dir", tmp_path]
    done = torchrun(tiny / "segmentation.py", *launch, "--cfg-options", "model.decode_head.in_channels=9")
    assert done.returncode != 0 and done.stderr.count("error: FCNHead: in_channels [9] do not fit") == 1
    assert "engine/fit.py" not in done.stderr


@pytest.mark.slow
def test_parameters_without_a_gradient_are_named(tiny, tmp_path):
    launch = ["--launcher", "pytorch", "--work-dir", tmp_path]
    options = ["--cfg-options", "model.backbone.out_indices=(2,3)"]
    done = torchrun(tiny / "segmentation.py", *launch, *options)
    assert done.returncode != 0 and "take no part in the loss (backbone.stages.3." in done.stderr
    done = torchrun(tiny / "segmentation.py", *launch, *options, "find_unused_parameters=True")
    assert done.returncode == 0, done.stderr[-3000:]
