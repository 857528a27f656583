"""bestiary check, train and infer on a person's data, and what a training step tells."""

import json

import pytest
import torch
from own_data import NAMES, make_own
from torch import nn

from bestiary.engine.configs import SHIPPED
from bestiary.engine.first_step import GradientWatch, idle_words, need_finite
from bestiary.errors import InputError
from bestiary.tools import check as check_tool
from bestiary.tools import infer as infer_tool
from bestiary.tools import train as train_tool

SMALL = """
_base_ = [BASE]
LOADER = dict(num_workers=0, persistent_workers=False)
arch = dict(_delete_=True, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale_init=1.0)
model = dict(
    backbone=dict(arch=arch, init_cfg=None),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=16),
    rpn_head=dict(in_channels=16, feat_channels=16),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16),
    ),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
train_dataloader = dict(**LOADER, batch_size=2)
val_dataloader = LOADER
test_dataloader = LOADER
train_cfg = dict(max_epochs=1, val_interval=1)
param_scheduler = []
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    root = make_own(tmp_path_factory.mktemp("own"))
    (root / "small.py").write_text(SMALL.replace("BASE", repr(str(SHIPPED / "mydata/mask-rcnn_poolformer.py"))))
    return root


def test_from_a_bare_file_to_predictions(own, tmp_path, capsys):
    paths = ["--data", str(own / "ann.json"), str(own / "pics")]
    assert train_tool.main([str(own / "small.py"), "--work-dir", str(tmp_path), *paths]) == 0
    out = capsys.readouterr().out
    assert "3 classes: 0 dolls, Käse & Brot, type" in out and f"bestiary infer {tmp_path / 'small.py'}" in out
    assert "coco/segm_mAP" in json.loads((tmp_path / "metrics.json").read_text())["metrics"]
    meta = torch.load(tmp_path / "epoch_1.pth", weights_only=True)["meta"]
    assert tuple(meta["dataset_meta"]["classes"]) == tuple(NAMES.values())
    drawn = tmp_path / "drawn"
    argv = [str(tmp_path / "small.py"), str(tmp_path / "epoch_1.pth"), str(own / "pics"), "--out", str(drawn)]
    assert infer_tool.main([*argv, "--score-thr", "0"]) == 0
    assert json.loads((drawn / "predictions.json").read_text())["classes"] == list(NAMES.values())


def test_check_tells_what_is_there(own, capsys):
    assert check_tool.main([str(own / "small.py"), "--data", str(own / "ann.json"), str(own / "pics")]) == 0
    out = capsys.readouterr().out
    counts = {name: 0 for name in NAMES.values()}
    for entry in json.loads((own / "ann.json").read_text())["annotations"]:
        counts[NAMES[entry["category_id"]]] += 1
    for name, count in counts.items():
        row = next(line for line in out.splitlines() if name in line and "│" in line)
        assert [cell.strip() for cell in row.split("│")[1:3]] == [name, str(count)]
    assert "no mistakes; MaskRCNN" in out and "a step on 2 pictures of the training data: loss" in out


def test_check_lists_every_mistake(own, capsys):
    argv = [str(own / "small.py"), "--data", str(own / "ann.json"), str(own / "nowhere"), "--cfg-options"]
    options = ["optim_wraper.type=OptimWrapper", "train_dataloader.batch_size=0", "model.neck.num_out=4"]
    assert check_tool.main([*argv, *options]) == 1
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("mistake: ")]
    for part in (
        "optim_wraper",
        "train_dataloader.batch_size: 0",
        "model.neck.num_out",
        "nowhere: no such picture folder",
    ):
        assert any(part in line for line in lines), err
    assert len(lines) == 5 and "5 mistakes" in err  # the folder is that of training and of validation
    assert train_tool.main([*argv, *options]) == 1
    err = capsys.readouterr().err
    assert "error: 5 mistakes:" in err and "did you mean 'num_outs'?" in err


def test_check_without_data(own, capsys):
    argv = ["quickstart/classifier_poolformer_digits", "--no-data"]
    assert check_tool.main(argv) == 0
    assert "a step on 2 random pictures: loss" in capsys.readouterr().out
    assert check_tool.main([*argv, "--no-step"]) == 0
    assert "a step on" not in capsys.readouterr().out
    assert check_tool.main(["nowhere", "--no-data"]) == 1
    assert "nowhere: no such config" in capsys.readouterr().err


def test_parameters_without_a_gradient_are_named():
    model = nn.ModuleDict(dict(used=nn.Linear(2, 2), idle=nn.Linear(2, 2), frozen=nn.Linear(2, 2)))
    model["frozen"].requires_grad_(False)
    watch = GradientWatch(model)
    model["used"](torch.ones(1, 2)).sum().backward()
    names = watch.stop()
    assert names == ["idle.weight", "idle.bias"]
    assert "2 parameters take no part in the loss" in idle_words(names) and "idle.weight, idle.bias" in idle_words(
        names
    )
    watch = GradientWatch(model)
    model["idle"](torch.ones(1, 2)).sum().backward()
    assert watch.stop() == ["used.weight", "used.bias"]


def test_losses_must_be_finite():
    need_finite(dict(loss=torch.tensor(1.0), loss_box=[torch.tensor(2.0)], acc=torch.tensor(float("nan"))))
    for value in (torch.tensor(float("nan")), [torch.tensor(1.0), torch.tensor(float("inf"))]):
        with pytest.raises(InputError, match="loss_box: not finite in the first step"):
            need_finite(dict(loss_box=value))


def test_training_names_what_gets_no_gradient(tiny, tmp_path, capsys):
    """The third of three stages is asked for; the head takes the second."""
    options = ["model.backbone.out_indices=(1,2)", "model.decode_head.in_channels=16", "train_cfg.max_iters=1"]
    options += ["train_cfg.val_interval=1"]
    assert train_tool.main([str(tiny / "segmentation.py"), "--work-dir", str(tmp_path), "--cfg-options", *options]) == 0
    said = capsys.readouterr()
    assert "parameters take no part in the loss and learn nothing (backbone.stages.2." in said.out + said.err


def test_a_loss_of_nan_stops(tiny, tmp_path, capsys):
    option = "model.decode_head.loss_decode.class_weight=[1,1,1e39]"  # infinite in float32
    assert train_tool.main([str(tiny / "segmentation.py"), "--work-dir", str(tmp_path), "--cfg-options", option]) == 1
    assert "not finite in the first step" in capsys.readouterr().err
