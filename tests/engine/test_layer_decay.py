"""Layer-wise learning rates, in classifiers, detectors and segmentors."""

from copy import deepcopy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.registry import MODELS, init_default_scope
from small_families import FAMILIES, tiny
from torch import nn

from bestiary.backbones import TimmBackbone
from bestiary.engine.complexity import without_weights
from bestiary.engine.configs import load_config
from bestiary.engine.layer_decay import layers_of
from bestiary.engine.runner import build_runner
from bestiary.errors import InputError
from bestiary.heads import ClassAttentionHead, ImageClassifier, LinearHead

LR, DECAY, RATE = 0.01, 0.1, 0.8


def settings_of(model, **paramwise):
    """Name of each parameter -> (learning rate, weight decay)."""
    paramwise = dict(layer_decay_rate=RATE) | paramwise
    cfg = dict(
        constructor="bestiary.LayerDecayConstructor",
        optimizer=dict(type="AdamW", lr=LR, weight_decay=DECAY),
        paramwise_cfg={key: value for key, value in paramwise.items() if value is not None},
    )
    groups = build_optim_wrapper(model, cfg).optimizer.param_groups
    found = {id(p): (group["lr"], group["weight_decay"]) for group in groups for p in group["params"]}
    assert len(found) == sum(len(group["params"]) for group in groups)
    return {name: found[id(p)] for name, p in model.named_parameters() if p.requires_grad}


def classify(backbone, head=LinearHead):
    return ImageClassifier(backbone, head(backbone.feature_info.channels()[-1], 3))


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.NAME)
def test_rates_of_every_family(family):
    """From the head down: the last block has RATE, the one before its square, ..., the stem the least."""
    model = classify(tiny(family))
    backbone = model.backbone
    blocks = [block for stage in backbone.stages for block in stage.blocks]
    factors = {id(p): 1.0 for p in model.parameters()}
    factor = 1.0
    for block in reversed(blocks):
        factor *= RATE
        factors |= {id(p): factor for p in block.parameters()}
    for stage in backbone.stages:
        below = factors[id(next(stage.blocks[0].parameters()))]
        factors |= {id(p): below for p in stage.downsample.parameters()}
    factors |= {id(p): factor * RATE for p in backbone.stem.parameters()}
    factors |= {id(p): RATE for p in backbone.norms.parameters()}
    still = {f"backbone.{name}" for name in backbone.no_weight_decay()}
    for name, (rate, decay) in settings_of(model).items():
        assert rate == pytest.approx(LR * factors[id(model.get_parameter(name))]), name
        flat = model.get_parameter(name).ndim <= 1
        assert decay == (0.0 if name in still or flat else DECAY), name


def test_the_usual_keys_go_with_it():
    model = classify(tiny(next(family for family in FAMILIES if family.NAME == "nat")))
    top = model.backbone.num_layers
    plain = settings_of(model)
    keys = {"token_mixer.rpb": dict(decay_mult=0.5), "head": dict(lr_mult=10), "stem": dict(lr_mult=2, decay_mult=3)}
    found = settings_of(model, custom_keys=keys)
    rpb = "backbone.stages.0.blocks.0.token_mixer.rpb"
    assert plain[rpb][1] == 0 and found[rpb] == pytest.approx((LR * RATE ** (top - 1), DECAY * 0.5))
    assert found["head.fc.weight"] == pytest.approx((10 * LR, DECAY))
    assert found["head.fc.bias"] == pytest.approx((10 * LR, 0))
    stem = next(name for name in found if name.startswith("backbone.stem") and name.endswith("weight"))
    assert found[stem] == pytest.approx((2 * LR * RATE**top, 3 * DECAY))
    by_keys = settings_of(model, no_weight_decay=False, norm_decay_mult=0.0, bias_decay_mult=0.25)
    assert by_keys[rpb][1] == DECAY and by_keys["head.fc.bias"][1] == DECAY * 0.25
    norm = next(name for name, module in model.named_modules() if isinstance(module, nn.LayerNorm))
    assert by_keys[f"{norm}.weight"][1] == 0


def test_frozen_stages_have_no_groups_and_others_keep_their_rates():
    family = next(family for family in FAMILIES if family.NAME == "poolformer")
    whole, part = settings_of(classify(tiny(family))), settings_of(classify(tiny(family, frozen_stages=2)))
    assert len(part) < len(whole) and all(whole[name] == value for name, value in part.items())


def test_what_a_head_names_does_not_decay_either():
    family = next(family for family in FAMILIES if family.NAME == "poolformer")
    backbone = tiny(family)
    model = ImageClassifier(backbone, ClassAttentionHead(20, 3))
    assert settings_of(model)["head.cls_token"] == (LR, 0.0)


@pytest.mark.parametrize(
    "name", ["quickstart/mask_rcnn_poolformer_digits", "quickstart/upernet_poolformer_digits"], ids=["mmdet", "mmseg"]
)
def test_detectors_and_segmentors(name):
    cfg = load_config(name)
    init_default_scope(cfg.default_scope)
    try:
        model = MODELS.build(without_weights(cfg.model))
    finally:
        init_default_scope("mmengine")
    found, top = settings_of(model), model.backbone.num_layers
    others = {rate for name, (rate, _) in found.items() if not name.startswith("backbone.")}
    assert others == {LR} and len(found) == len(list(model.parameters()))
    own = {name: rate for name, (rate, _) in found.items() if name.startswith("backbone.")}
    assert min(own.values()) == pytest.approx(LR * RATE**top) == own["backbone.stem.conv.weight"]
    assert max(own.values()) == pytest.approx(LR * RATE)


def test_timms_models():
    model = classify(TimmBackbone("resnet18"))
    found = settings_of(model)
    assert found["backbone.model.conv1.weight"] == pytest.approx((LR * RATE**9, DECAY))
    assert found["backbone.model.layer4.1.conv2.weight"] == pytest.approx((LR * RATE, DECAY))
    assert found["backbone.model.layer4.1.bn2.weight"] == pytest.approx((LR * RATE, 0))


def test_several_backbones_end_at_one_height():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            shallow, deep = (next(f for f in FAMILIES if f.NAME == name) for name in ("vitrpb", "poolformer"))
            self.one, self.two, self.head = tiny(shallow), tiny(deep), nn.Linear(2, 2)

    model = Two()
    layers, top = layers_of(model)
    assert top == model.two.num_layers > model.one.num_layers
    assert layers["one.stages.0.blocks.2.mlp.fc1.weight"] == top - 1 == layers["two.stages.3.blocks.0.mlp.fc1.weight"]
    assert "head.weight" not in layers


@pytest.mark.parametrize(
    ("model", "paramwise", "message"),
    [
        (nn.Linear(2, 2), {}, "Linear does not tell its layers"),
        (None, dict(layer_decay_rate=1.2), "layer_decay_rate 1.2 must be in 0..1"),
        (None, dict(layer_decay_rate=None), "layer_decay_rate None must be in 0..1"),
    ],
)
def test_what_does_not_fit(model, paramwise, message):
    family = next(family for family in FAMILIES if family.NAME == "poolformer")
    with pytest.raises(InputError, match=message):
        settings_of(classify(tiny(family)) if model is None else model, **paramwise)


def test_one_cycle_would_write_over_the_rates(classifier):
    """Its eta_max is one for all."""
    cycle = dict(type="OneCycleLR", eta_max=0.1, by_epoch=False, begin=0, end=2)
    adamw = dict(type="AdamW", lr=0.1)
    by_layer = dict(constructor="bestiary.LayerDecayConstructor", paramwise_cfg=dict(layer_decay_rate=0.5))
    for number, (changes, scale, words) in enumerate(
        [({}, False, None), ({}, True, "auto_scale_lr scales them"), (by_layer, False, "they are 6, by layer")]
    ):
        cfg = deepcopy(classifier)
        cfg.param_scheduler = [cycle]
        cfg.optim_wrapper = dict(type="OptimWrapper", optimizer=adamw, **changes)
        cfg.auto_scale_lr = dict(enable=scale, base_batch_size=6)
        cfg.experiment_name += str(number)
        runner = build_runner(cfg)
        if words is None:
            runner.train()
        else:
            with pytest.raises(InputError, match=words):
                runner.train()


def test_a_step_moves_the_head_more_than_the_stem():
    torch.manual_seed(0)
    family = next(family for family in FAMILIES if family.NAME == "poolformer")
    model = classify(tiny(family))
    cfg = dict(
        constructor="bestiary.LayerDecayConstructor",
        optimizer=dict(type="SGD", lr=1.0),
        paramwise_cfg=dict(layer_decay_rate=0.5),
    )
    wrapper = build_optim_wrapper(model, cfg)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    for p in model.parameters():
        p.grad = torch.ones_like(p)
    wrapper.step()
    layers, top = layers_of(model)
    for name, p in model.named_parameters():
        torch.testing.assert_close(before[name] - p.detach(), torch.full_like(p, 0.5 ** (top - layers.get(name, top))))
