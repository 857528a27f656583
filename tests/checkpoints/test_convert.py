"""Names and shapes of weights between ours, timm's and the authors'."""

import pytest
import timm
import torch
from networks import same_weights

from bestiary.backbones import PoolFormer, list_backbones
from bestiary.checkpoints import build_classifier, convert_state_dict
from bestiary.checkpoints.schemes import load_timm
from bestiary.errors import InputError

LAYOUTS = ("bestiary", "timm", "official")


@pytest.fixture(scope="module")
def ours():
    """Weights of our PoolFormer-S12 classifier of 10 classes, every value random."""
    generator = torch.Generator().manual_seed(0)
    shapes = build_classifier("poolformer_s12", num_classes=10).state_dict()
    return {key: torch.randn(value.shape, generator=generator) for key, value in shapes.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_there_and_back_is_bitwise_the_same(ours, layout):
    theirs = convert_state_dict(ours, "poolformer_s12", "bestiary", layout)
    assert same_weights(convert_state_dict(theirs, "poolformer_s12", layout, "bestiary"), ours)
    by_tag = convert_state_dict(theirs, "poolformer_s12.sail_in1k", layout, "bestiary")
    assert same_weights(by_tag, ours)


def test_timm_to_official_and_back(ours):
    timms = convert_state_dict(ours, "poolformer_s12", "bestiary", "timm")
    official = convert_state_dict(timms, "poolformer_s12", "timm", "official")
    assert same_weights(official, convert_state_dict(ours, "poolformer_s12", "bestiary", "official"))
    assert same_weights(convert_state_dict(official, "poolformer_s12", "official", "timm"), timms)


@pytest.mark.parametrize("name", list_backbones("poolformer*"))
def test_timms_keys_and_shapes(name):
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
        shapes = build_classifier(name).state_dict()
    converted = convert_state_dict(shapes, name, "bestiary", "timm")
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in theirs.items()}


def test_official_keys(ours):
    official = convert_state_dict(ours, "poolformer_s12", "bestiary", "official")
    for theirs, own in {
        "patch_embed.proj.weight": "backbone.stem.conv.weight",
        "network.0.1.norm1.bias": "backbone.stages.0.blocks.1.norm1.bias",
        "network.4.5.norm2.weight": "backbone.stages.2.blocks.5.norm2.weight",
        "network.6.0.layer_scale_1": "backbone.stages.3.blocks.0.layer_scale1.scale",
        "network.2.1.layer_scale_2": "backbone.stages.1.blocks.1.layer_scale2.scale",
        "network.1.proj.weight": "backbone.stages.1.downsample.conv.weight",
        "network.5.proj.bias": "backbone.stages.3.downsample.conv.bias",
        "norm.weight": "head.norm.weight",
        "head.weight": "head.fc.weight",
        "head.bias": "head.fc.bias",
    }.items():
        assert torch.equal(official[theirs], ours[own]), theirs
    fc = ours["backbone.stages.1.blocks.0.mlp.fc1.weight"]
    assert official["network.2.0.mlp.fc1.weight"].shape == (512, 128, 1, 1)
    assert torch.equal(official["network.2.0.mlp.fc1.weight"].flatten(1), fc)
    assert official["head.weight"].shape == (10, 512)  # linear there, too
    assert len(official) == len(ours)


def test_output_norms():
    weights = {key: torch.randn(value.shape) for key, value in PoolFormer("s12").state_dict().items()}
    official = convert_state_dict(weights, "poolformer_s12", "bestiary", "official")  # a backbone by itself
    for stage in range(4):
        assert torch.equal(official[f"norm{2 * stage}.weight"], weights[f"norms.{stage}.weight"])
    assert len(official) == len(weights)
    back = convert_state_dict(official, "poolformer_s12", "official", "bestiary")
    assert same_weights(back, {f"backbone.{key}": value for key, value in weights.items()})
    timms = convert_state_dict(weights, "poolformer_s12", "bestiary", "timm")
    assert len(timms) == len(weights) - 8 and not any(key.startswith("norm") for key in timms)


@pytest.mark.parametrize("source", LAYOUTS)
@pytest.mark.parametrize("target", ["timm", "official"])
def test_unknown_keys_are_named(ours, source, target):
    weights = convert_state_dict(ours, "poolformer_s12", "bestiary", source)
    weights["stages.7.weight"] = torch.ones(3)
    message = (
        rf"1 of {len(weights)} keys are not {source} keys of poolformer_s12: (backbone.)?stages.7.weight; name the"
    )
    with pytest.raises(InputError, match=message):
        convert_state_dict(weights, "poolformer_s12", source, target)


def test_other_messages(ours):
    with pytest.raises(InputError, match="poolformer_s12: no key map for 'tf'; there are bestiary, timm, official"):
        convert_state_dict(ours, "poolformer_s12", "bestiary", "tf")
    with pytest.raises(ValueError, match="no backbone 'poolformer_s13'"):
        convert_state_dict(ours, "poolformer_s13")
    deeper = {key.replace("blocks.1.", "blocks.9."): value for key, value in ours.items()}
    with pytest.raises(InputError, match="keys are not bestiary keys of poolformer_s12: .*blocks.9"):
        convert_state_dict(deeper, "poolformer_s12", "bestiary", "timm")


def test_the_timm_scheme(monkeypatch):
    torch.manual_seed(3)
    model, asked = timm.create_model("poolformer_s12"), []
    monkeypatch.setattr(timm, "create_model", lambda name, **kwargs: asked.append((name, kwargs)) or model)
    weights = load_timm("timm://poolformer_s12.sail_in1k")
    assert asked == [("poolformer_s12.sail_in1k", dict(pretrained=True))]
    assert torch.equal(weights["backbone.stem.conv.weight"], model.stem.conv.weight)
    backbone = PoolFormer("s12", init_cfg=dict(type="Pretrained", checkpoint="timm://poolformer_s12"))
    backbone.init_weights()
    assert torch.equal(
        backbone.stages[3].blocks[1].mlp.fc2.weight, weights["backbone.stages.3.blocks.1.mlp.fc2.weight"]
    )
    classifier = build_classifier("poolformer_s12", pretrained=True)
    assert torch.equal(classifier.head.fc.weight, model.head.fc.weight)


@pytest.mark.parametrize("error", [OSError("no route to host"), RuntimeError("no such weights")], ids=repr)
def test_the_timm_scheme_offline(monkeypatch, error):
    def offline(*args, **kwargs):
        raise error

    monkeypatch.setattr(timm, "create_model", offline)
    message = rf"timm://poolformer_s12: the weights could not be fetched \({type(error).__name__}: no .*local file"
    with pytest.raises(InputError, match=message):
        build_classifier("poolformer_s12", pretrained=True)
    backbone = PoolFormer("s12", init_cfg=dict(type="Pretrained", checkpoint="timm://poolformer_s12"))
    with pytest.raises(InputError, match=message):
        backbone.init_weights()


def test_the_timm_scheme_refuses_before_it_fetches(monkeypatch):
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("it went to fetch"))
    with pytest.raises(InputError, match="timm://poolformer_s13: timm .* has no such model"):
        load_timm("timm://poolformer_s13")
    with pytest.raises(
        InputError, match="timm://convnext_tiny.fb_in1k: no backbone 'convnext_tiny'.*TimmBackbone has timm's other"
    ):
        load_timm("timm://convnext_tiny.fb_in1k")
