"""bestiary test --save-predictions, killed in the middle and gone on with, scores as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from bestiary.engine.configs import load_config
from bestiary.inputs.digits import make_digits


@pytest.mark.slow
@pytest.mark.parametrize("name", ["upernet_poolformer_digits", "mask_rcnn_poolformer_digits"])
def test_killed_and_gone_on_with(name, tmp_path):
    make_digits(tmp_path / "data/digits", train=2, val=90, layouts=("coco", "ade20k"))
    cfg = load_config(f"quickstart/{name}")
    init_default_scope(cfg.default_scope)
    cfg.model.backbone.pop("init_cfg")
    torch.manual_seed(0)
    torch.save(dict(state_dict=MODELS.build(cfg.model).state_dict()), tmp_path / "weights.pth")
    config = [f"quickstart/{name}", "weights.pth"]
    options = ["--cfg-options", "test_dataloader.batch_size=1", "test_dataloader.num_workers=0"]
    options += ["test_dataloader.persistent_workers=False"]

    def command(work_dir, *more):
        return [sys.executable, "-m", "bestiary.tools.cli", "test", *config, "--work-dir", work_dir, *more, *options]

    def scores(work_dir, *more):
        done = subprocess.run(command(work_dir, *more), cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return json.loads((tmp_path / work_dir / "metrics.json").read_text())["metrics"]

    whole = scores("whole", "--save-predictions", "saved_whole")
    running = subprocess.Popen(
        command("killed", "--save-predictions", "saved"),
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    pieces = Path(tmp_path / "saved/pieces")
    end = time.monotonic() + 120
    while len(list(pieces.glob("[!.]*.json")) if pieces.is_dir() else []) < 2 and time.monotonic() < end:
        assert running.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    kept = len(list(pieces.glob("[!.]*.json")))
    assert 2 <= kept < len(list((tmp_path / "saved_whole/pieces").glob("[!.]*.json")))
    assert scores("again", "--save-predictions", "saved", "--resume-predictions") == whole
