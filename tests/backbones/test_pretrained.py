"""Weights into backbones by init_cfg."""

import logging

import pytest
import torch
from mmengine.logging import MMLogger
from safetensors.torch import save_file

from bestiary.backbones import PoolFormer
from bestiary.errors import InputError
from bestiary.heads import ImageClassifier, LinearHead
from bestiary.registry import MODELS

SMALL = dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20), layer_scale_init=1.0)
OTHER = dict(depths=(1, 1, 1, 1), dims=(8, 12, 24, 20), layer_scale_init=1.0)


@pytest.fixture
def classifier():
    torch.manual_seed(0)
    backbone = PoolFormer(SMALL, out_indices=(3,), out_norm=False)
    return ImageClassifier(backbone, LinearHead(20, 5, norm="GroupNorm1", norm_first=True))


@pytest.fixture
def saved(classifier, tmp_path):
    path = tmp_path / "classifier.pth"
    torch.save({"state_dict": classifier.state_dict(), "meta": {"epoch": 2}}, path)
    return path


@pytest.fixture
def messages(monkeypatch):
    """What is logged, a line each."""
    lines = []
    monkeypatch.setattr("bestiary.backbones.pretrained.print_log", lambda text, *_, **__: lines.append(text))
    return lines


def init_cfg(path, **kwargs):
    return dict(type="Pretrained", checkpoint=str(path), **kwargs)


def agree(backbone, state_dict, prefix="backbone."):
    """Keys of `backbone` that are in the state dict and equal there."""
    own = backbone.state_dict()
    return {key for key, value in own.items() if torch.equal(value, state_dict.get(prefix + key, torch.empty(0)))}


def test_a_classifiers_backbone(classifier, saved, messages):
    backbone = PoolFormer(SMALL, init_cfg=init_cfg(saved))
    backbone.init_weights()
    own = set(backbone.state_dict())
    norms = {key for key in own if key.startswith("norms.")}
    assert agree(backbone, classifier.state_dict()) == own - norms and len(norms) == 8
    assert any("no output norms in it; 8 keys keep their initial values" in line for line in messages)
    assert backbone.is_init


def test_fewer_stages_and_config(classifier, saved):
    backbone = MODELS.build(
        dict(type="bestiary.PoolFormer", arch=SMALL, out_indices=(1,), out_norm=False, init_cfg=init_cfg(saved))
    )
    backbone.init_weights()
    assert agree(backbone, classifier.state_dict()) == set(backbone.state_dict())
    assert not any(key.startswith("stages.2") for key in backbone.state_dict())


@pytest.mark.parametrize("form", ["bare", "ddp", "safetensors", "model"])
def test_other_forms_of_file(classifier, tmp_path, form):
    weights = classifier.backbone.state_dict()
    path = tmp_path / ("w.safetensors" if form == "safetensors" else "w.pth")
    if form == "safetensors":
        save_file({f"backbone.{key}": value for key, value in weights.items()}, path)
    elif form == "ddp":
        torch.save({f"module.backbone.{key}": value for key, value in weights.items()}, path)
    else:
        torch.save(weights if form == "bare" else {"model": weights, "epoch": 3}, path)
    backbone = PoolFormer(SMALL, out_norm=False, init_cfg=init_cfg(path))
    backbone.init_weights()
    assert agree(backbone, weights, "") == set(backbone.state_dict())


def test_prefix(classifier, tmp_path):
    path = tmp_path / "w.pth"
    weights = {f"student.net.{key}": value for key, value in classifier.backbone.state_dict().items()}
    torch.save({**weights, "backbone.stem.conv.bias": torch.ones(8)}, path)
    for prefix in ("student.net", "student.net."):
        backbone = PoolFormer(SMALL, out_norm=False, init_cfg=init_cfg(path, prefix=prefix))
        backbone.init_weights()
        assert agree(backbone, weights, "student.net.") == set(backbone.state_dict())
    with pytest.raises(
        InputError, match=r"w.pth: no key begins with 'teacher.', .*; the keys begin with backbone, stude"
    ):
        PoolFormer(SMALL, init_cfg=init_cfg(path, prefix="teacher")).init_weights()


def test_another_arch_is_refused_by_name(saved):
    backbone = PoolFormer(OTHER, out_norm=False, init_cfg=init_cfg(saved))
    before = backbone.stem.conv.weight.clone()
    with pytest.raises(InputError) as refusal:
        backbone.init_weights()
    message = str(refusal.value)
    assert f"{saved}: does not fit PoolFormer 'custom': " in message
    assert "mis-shaped (stages.2.downsample.conv.weight [16, 12, 3, 3] in the file, [24, 12, 3, 3] in" in message
    assert "unexpected (stages.1.blocks.1.norm1.weight" in message
    assert "Name the arch that the weights are of, or set strict=False in init_cfg" in message
    assert torch.equal(before, backbone.stem.conv.weight)  # nothing was loaded


def test_not_strict_takes_what_fits(classifier, saved, messages):
    backbone = PoolFormer(OTHER, out_norm=False, init_cfg=init_cfg(saved, strict=False))
    backbone.init_weights()
    loaded = agree(backbone, classifier.state_dict())
    assert {"stem.conv.weight", "stages.1.blocks.0.mlp.fc1.weight"} <= loaded
    assert not any(key.startswith("stages.2") and key.endswith("fc1.weight") for key in loaded)
    assert any("loaded in part into PoolFormer" in line and "mis-shaped" in line for line in messages)


def test_nothing_fits(tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"conv1.weight": torch.randn(64, 3, 7, 7), "fc.weight": torch.randn(10, 512)}, path)
    with pytest.raises(InputError, match="w.pth: does not fit PoolFormer 'custom': .*conv1.weight") as refusal:
        PoolFormer(SMALL, init_cfg=init_cfg(path, strict=False)).init_weights()
    assert "strict=False" not in str(refusal.value)  # that was given, and cannot help


def test_files_that_are_not_there_or_no_checkpoints(saved, tmp_path):
    (tmp_path / "text.pth").write_text("hello")
    for name, message in (
        ("gone.pth", r"PoolFormer: .*gone.pth: no such checkpoint; .* has classifier.pth.* \(init_cfg.checkpoint"),
        ("text.pth", "text.pth: not a checkpoint"),
    ):
        with pytest.raises(InputError, match=message):
            PoolFormer(SMALL, init_cfg=init_cfg(tmp_path / name)).init_weights()
    with pytest.raises(InputError, match="nowhere://x: nothing is there, or no reader for nowhere:// is known"):
        PoolFormer(SMALL, init_cfg=init_cfg("nowhere://x")).init_weights()


def test_other_init_cfgs_stay_mmengines():
    MMLogger.get_current_instance().setLevel(logging.ERROR)  # it lists every parameter
    backbone = PoolFormer(SMALL, init_cfg=dict(type="Constant", layer="Conv2d", val=0.25, bias=0.5))
    backbone.init_weights()
    assert (backbone.stem.conv.weight == 0.25).all() and (backbone.stem.conv.bias == 0.5).all()
    assert not (backbone.stages[0].blocks[0].mlp.fc1.weight == 0.25).any()
