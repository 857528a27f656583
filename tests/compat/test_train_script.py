"""A user's journey: mmdet's own tools/train.py, a config of theirs that imports bestiary, other processes."""

import importlib.util
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from shares import one_day_in

MMDET = Path(importlib.util.find_spec("mmdet").origin).parent / ".mim"
TRAIN = MMDET / "tools" / "train.py"

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="this is about machines without a GPU")


def run(*command, cwd, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, cwd=cwd, timeout=300, env=environment
    )
    return done.returncode, done.stdout + done.stderr


@pytest.fixture
def coco(tmp_path):
    """Four pictures with a rectangle each, in COCO's layout."""
    from PIL import Image

    rng = np.random.default_rng(0)
    images, annotations = [], []
    for index in range(4):
        x, y, w, h = (int(value) for value in rng.integers([5, 5, 20, 20], [30, 20, 40, 40]))
        picture = rng.integers(80, size=(61, 83, 3), dtype=np.uint8)
        picture[y : y + h, x : x + w] += 150
        Image.fromarray(picture).save(tmp_path / f"{index}.png")
        images.append(dict(id=index, file_name=f"{index}.png", height=61, width=83))
        annotations.append(
            dict(id=index + 1, image_id=index, category_id=1, bbox=[x, y, w, h], area=w * h, iscrowd=0, segmentation=[])
        )
    content = dict(images=images, annotations=annotations, categories=[dict(id=1, name="rectangle")])
    (tmp_path / "rectangles.json").write_text(json.dumps(content), encoding="utf-8")
    return tmp_path


CONFIG = """
_base_ = {base}
custom_imports = dict(imports=["bestiary"])
model = dict(
    backbone=dict(init_cfg=None),
    bbox_head=dict(num_classes=1, stacked_convs=1),
    test_cfg=dict(score_thr=0.0),
)
pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", with_bbox=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape")),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(83, 61), keep_ratio=True),
    dict(type="PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
data = dict(
    _delete_=True, type="CocoDataset", data_root={root!r}, ann_file="rectangles.json", data_prefix=dict(img=""),
    metainfo=dict(classes=("rectangle",)), pipeline=pipeline,
)
train_dataloader = dict(batch_size=2, num_workers=1, persistent_workers=False, dataset=data)
val_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(data, pipeline=test_pipeline, test_mode=True)
)
val_evaluator = dict(ann_file={root!r} + "/rectangles.json")
test_dataloader, test_evaluator = val_dataloader, val_evaluator
train_cfg = dict(max_epochs=1)
param_scheduler = []
default_hooks = dict(logger=dict(interval=1))
"""


def write_config(root, base):
    path = root / "config.py"
    path.write_text(CONFIG.format(base=repr(base), root=str(root)), encoding="utf-8")
    return path


def checkpoint_of(root, epoch=1):
    return torch.load(root / "work" / f"epoch_{epoch}.pth", weights_only=False)  # our own file, a moment old


def train(coco, *arguments):
    config = write_config(coco, str(MMDET / "configs/retinanet/retinanet_r18_fpn_1x_coco.py"))
    status, log = run(sys.executable, TRAIN, config, "--work-dir", coco / "work", *arguments, cwd=coco)
    assert status == 0, log
    return log


def test_mmdets_script_trains(coco):
    """By a path as base, as `custom_imports` come after the bases."""
    assert "bbox_mAP_50" in train(coco)
    assert checkpoint_of(coco)["meta"]["epoch"] == 1


@pytest.mark.slow
def test_mmdets_script_resumes_in_mixed_precision(coco):
    train(coco, "--amp")
    log = train(coco, "--amp", "--resume", "--cfg-options", "train_cfg.max_epochs=2")
    assert "resumed epoch: 1, iter: 2" in log and checkpoint_of(coco, 2)["meta"]["iter"] == 4


@pytest.mark.slow
def test_mmdets_script_trains_in_two_processes(coco):
    """By 'mmdet::...' as base, which needs bestiary before it is looked up: a base that imports it goes first.

    An import statement in it would make mmengine take it for a lazy config.
    """
    (coco / "first.py").write_text("__import__('bestiary')\n", encoding="utf-8")
    config = write_config(coco, ["first.py", "mmdet::retinanet/retinanet_r18_fpn_1x_coco.py"])
    status, log = run(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        TRAIN, config, "--work-dir", coco / "work", "--launcher", "pytorch",
        "--cfg-options", "env_cfg.mp_cfg.mp_start_method=spawn", cwd=coco,
    )  # fmt: skip
    assert status == 0, log
    assert "the process group runs on gloo instead of nccl" in log
    assert "bbox_mAP_50" in log and checkpoint_of(coco)["meta"]["iter"] == 1  # 4 pictures, 2 processes, batch 2


WORKERS = """
import sys

if __name__ == "__main__":
    import bestiary
    import torch
    from mmdet.structures.mask import BitmapMasks  # imports mmcv.ops
    from torch.utils.data import DataLoader

    dataset = [BitmapMasks([], 3, 4), BitmapMasks([], 5, 6)]
    loader = DataLoader(dataset, num_workers=1, multiprocessing_context=sys.argv[1], collate_fn=list)
    print(*(masks.height for (masks,) in loader))
"""


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
@one_day_in(4, 13)
def test_workers_have_the_operators(method, tmp_path):
    """bestiary is imported where no child looks for it."""
    (tmp_path / "script.py").write_text(WORKERS, encoding="utf-8")
    status, log = run(sys.executable, tmp_path / "script.py", method, cwd=tmp_path)
    assert status == 0 and log.endswith("3 5\n"), log


TWO_PROCESSES = """
import gc, os, sys
import bestiary, torch
from mmengine.model import BaseModel
from mmengine.runner import Runner, FlexibleRunner
from torch import nn

class Model(BaseModel):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 4, 1), nn.SyncBatchNorm(4))
    def forward(self, x, y, mode="tensor"):
        return dict(loss=(self.layers(x).mean(dim=(2, 3)) - y).square().mean())

torch.manual_seed(0)
settings = dict(
    train_dataloader=dict(
        batch_size=2, dataset=[(torch.randn(3, 5, 4), torch.randn(4)) for _ in range(8)],
        sampler=dict(type="DefaultSampler", shuffle=True), collate_fn=dict(type="default_collate"),
    ),
    train_cfg=dict(by_epoch=True, max_epochs=1), work_dir=sys.argv[1], default_scope="mmengine",
)
optimizer = dict(type="AmpOptimWrapper", optimizer=dict(type="SGD", lr=0.1))
runners = [
    Runner(Model(), optim_wrapper=optimizer, launcher="pytorch", experiment_name="one", **settings),
    FlexibleRunner(Model(), optim_wrapper=optimizer, launcher="pytorch", strategy=dict(type="DDPStrategy"),
                   experiment_name="two", **settings),
]
for runner in runners:
    runner.train()
    wrapped = runner.model
    assert type(wrapped).__name__ == "MMDistributedDataParallel" and wrapped.device_ids is None
    assert not any(isinstance(layer, nn.SyncBatchNorm) for layer in wrapped.modules())
    mine = torch.cat([parameter.detach().flatten() for parameter in wrapped.parameters()])
    all_of_them = [torch.empty_like(mine) for _ in range(2)]
    torch.distributed.all_gather(all_of_them, mine)
    assert torch.equal(*all_of_them)
    # One write: two processes share the pipe, and print writes a line in pieces.
    sys.stdout.write(f"trained {runner.iter} {torch.distributed.get_backend()}\\n")
# Else gloo's threads may outlive what they use, and abort the process: models hold the group, runners their models.
del runner, runners, wrapped
gc.collect()
torch.distributed.destroy_process_group()
"""


@one_day_in(4, 12)
def test_both_runners_train_in_two_processes(tmp_path):
    (tmp_path / "script.py").write_text(textwrap.dedent(TWO_PROCESSES), encoding="utf-8")
    status, log = run(
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2",
        tmp_path / "script.py", tmp_path / "work", cwd=tmp_path,
    )  # fmt: skip
    assert status == 0, log
    assert log.count("trained 2 gloo") == 4
    assert "1 SyncBatchNorm layers became BatchNorm" in log
