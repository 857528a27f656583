"""The parts of a check: what constructors take, what models lack, which weights would be loaded."""

import inspect

import pytest
import torch
from mmengine.config import Config
from mmengine.model import BaseModule
from mmengine.registry import MODELS
from torch import nn

from bestiary.backbones import PoolFormer
from bestiary.engine.checks.model import check_model
from bestiary.engine.checks.schedule import check_schedule
from bestiary.engine.checks.signatures import accepted, wrong_kind
from bestiary.engine.checks.weights import by_stage, look_at_weights, words_of
from bestiary.engine.configs import load_config

ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale_init=1.0)


class Base:
    def __init__(self, base, number: int = 1):
        pass


class Passes(Base):
    def __init__(self, own, **kwargs):
        super().__init__(**kwargs)


class Takes(Passes):
    def __init__(self, **kwargs):
        self.taken = kwargs.pop("taken", None)
        if "asked" in kwargs:
            self.got = kwargs["got"]
        super().__init__(**kwargs)


class Opens(Base):
    def __init__(self, own, **kwargs):
        super().__init__(1)
        self.rest = dict(**kwargs)


class Swallows(Base):
    def __init__(self, own, **kwargs):
        super().__init__(1)


class Behind(Passes):
    def __init__(self, mine, **kwargs):
        super(Passes, self).__init__(**kwargs)


class Closed(nn.Module):
    def __init__(self, a, b=2):
        super().__init__()


class Inherits(Closed):
    pass


class FrozenModel(BaseModule):
    def __init__(self, size):
        super().__init__()
        self.layer = nn.Linear(size, size).requires_grad_(False)


@pytest.mark.parametrize(
    ("cls", "names", "is_open"),
    [
        (Base, {"base", "number"}, False),
        (Passes, {"own", "base", "number"}, False),
        (Takes, {"taken", "asked", "got", "own", "base", "number"}, False),
        (Opens, {"own"}, True),
        (Swallows, {"own"}, True),
        (Behind, {"mine", "base", "number"}, False),
        (Closed, {"a", "b"}, False),
        (Inherits, {"a", "b"}, False),
    ],
)
def test_what_a_constructor_takes(cls, names, is_open):
    found = accepted(cls)
    assert found.open is is_open and names <= set(found.parameters)
    assert is_open or set(found.parameters) == names


def test_a_backbone_takes_its_table():
    found = accepted(PoolFormer)
    assert not found.open and {"arch", "dims", "out_norm", "frozen_stages", "layer_scale_init"} <= set(found.parameters)


def typed(
    number: int = 1,
    maybe: float | None = None,
    flag=False,
    text: str = "x",
    either: int | str = 1,
    table: dict | None = None,
    free=None,
    num_things=None,
):
    pass


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("number", "3", "a number"),
        ("number", 3, None),
        ("number", 3.5, None),
        ("maybe", "1e-3x", "a number"),
        ("maybe", None, None),
        ("flag", "no", "a number"),
        ("text", "3", None),
        ("either", "3", None),
        ("table", "max_norm", "a dict"),
        ("free", "3", None),
        ("num_things", "three", "a number"),
        ("num_things", 3, None),
    ],
)
def test_kinds_of_values(name, value, wanted):
    assert wrong_kind(value, typed, inspect.signature(typed).parameters[name]) == wanted


def test_a_model_of_which_nothing_is_trained():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS.module_dict, "FrozenModel", FrozenModel)
        found = check_model(Config(dict(model=dict(type="FrozenModel", size=3))))
        assert found.mistakes == [
            "model: every parameter is frozen, nothing would be trained; lower model.backbone.frozen_stages"
        ]
        found = check_model(Config(dict(model=dict(type="FrozenModel", size="x"))))
        assert found.model is None and found.mistakes[0].startswith("model: ")


def classifier(**changes):
    model = dict(type="ImageClassifier", backbone=dict(type="PoolFormer", arch=ARCH, out_indices=(3,)))
    model["head"] = dict(type="LinearHead", in_channels=32, num_classes=2)
    return Config(dict(default_scope="bestiary", model=model, **changes))


def test_keys_of_parameters_that_match_none():
    def keys(*names):
        paramwise = dict(custom_keys={name: dict(lr_mult=0.1) for name in names})
        return check_model(classifier(optim_wrapper=dict(paramwise_cfg=paramwise)))

    assert keys("backbone", "head").mistakes == []
    told = keys("backbone", "relative_position_bias_table")
    assert told.mistakes == [] and "relative_position_bias_table" in told.notes[0]
    assert "did you mean 'backbone'" in keys("head", "bakcbone").mistakes[0]
    assert "no parameter has that in its name" in keys("nothing_like_it").mistakes[0]


def test_synced_norms_are_noted(tmp_path):
    path = tmp_path / "synced.py"
    path.write_text('_base_ = "mmseg::_base_/models/fcn_unet_s5-d16.py"\ndefault_scope = "mmseg"\n')
    found = check_model(load_config(str(path)))
    assert found.mistakes == [] and any("SyncBN layers" in note and "plain batch norms" in note for note in found.notes)


@pytest.fixture
def resnet():
    from mmdet.models import ResNet

    return ResNet(18, base_channels=8)


def test_weights_by_stage(resnet, tmp_path):
    state = resnet.state_dict()
    config = dict(type="ResNet", init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "w.pth")))

    def looked(keep, **more):
        torch.save({"state_dict": {key: value for key, value in state.items() if keep(key)}}, tmp_path / "w.pth")
        return look_at_weights(config, resnet, **more)

    found, mistakes, _ = looked(lambda key: True)
    assert mistakes == [] and found[0].stages == by_stage(resnet, set(state))
    assert set(found[0].stages) == {"conv1", "bn1", "layer1", "layer2", "layer3", "layer4"}
    assert sum(count for _, count in found[0].stages.values()) == len(state)
    found, mistakes, _ = looked(lambda key: not key.startswith("layer1"))
    assert mistakes == [] and all(
        here == 0 for stage, (here, _) in found[0].stages.items() if stage.startswith("layer1")
    )
    assert f"of {len(state)} keys from" in words_of(found[0]) and "layer1" in words_of(found[0])
    share = sum(v.numel() for k, v in state.items() if k.startswith("layer1")) / sum(v.numel() for v in state.values())
    _, mistakes, _ = looked(lambda key: key.startswith("layer1"))
    assert f"{share:.0%} of the values of ResNet would be loaded, less than 50%" in mistakes[0]
    assert looked(lambda key: key.startswith("layer1"), least=share / 2)[1] == []
    config["init_cfg"]["checkpoint"] = "timm://resnet18"
    assert "is fetched when the training starts" in look_at_weights(config, resnet)[2][0]


def test_lengths():
    def said(shortened=False, **changes):
        base = dict(
            train_cfg=dict(max_epochs=12), param_scheduler=[dict(type="MultiStepLR", milestones=[8, 11], end=12)]
        )
        return check_schedule(Config(base | changes), shortened)

    assert said() == []
    assert ["set param_scheduler.0.end=3" in said(train_cfg=dict(max_epochs=3))[0]] == [True]
    assert said(shortened=True, train_cfg=dict(max_epochs=3)) == []
    assert (
        "milestones: [12, 13] lie beyond" in said(param_scheduler=dict(type="MultiStepLR", milestones=[9, 12, 13]))[0]
    )
    loops = dict(val_dataloader={}, val_cfg={}, val_evaluator={})
    assert said(train_cfg=dict(max_epochs=12, val_interval=13), **loops) == [], (
        "one more than the last is how one says never"
    )
    assert "val_interval: 14 is beyond" in said(train_cfg=dict(max_epochs=12, val_interval=14), **loops)[0]
    assert "says neither" in said(train_cfg=dict(type="EpochBasedTrainLoop"))[0]
