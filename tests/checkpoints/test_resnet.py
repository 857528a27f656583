"""Weights of ResNet and MobileNetV2 with attention between our names, timm's and the authors'."""

import pytest
import timm
import torch
import torchvision
from networks import random_weights, same_weights

from bestiary.backbones import MobileNetV2, ResNet, list_backbones
from bestiary.checkpoints import build_classifier, convert_state_dict, load_classifier
from bestiary.errors import InputError

SMALL = dict(depths=(1, 2, 1, 1), dims=(16, 24, 32, 40))
DEEP = dict(SMALL, stem_dims=(8, 8, 8), avg_down=True)
MOBILE = dict(depths=(1, 2, 2, 1), dims=(8, 12, 16, 20), stem_dims=(8, 8), widths={}, expand_ratio=2)
CASES = {  # name: what makes it small, layouts that have all of it
    "resnet18": (SMALL, ("bestiary", "timm", "official")),
    "resnet50": (SMALL | dict(attn="se"), ("bestiary", "timm")),
    "eca_resnet50": (SMALL, ("bestiary", "timm", "official")),
    "ecaresnet50d": (DEEP, ("bestiary", "timm", "official")),
    "mobilenetv2_100": (MOBILE, ("bestiary", "timm", "official")),
    "eca_mobilenetv2": (MOBILE | dict(eca_kernels=None), ("bestiary", "official")),
}


@pytest.mark.parametrize(
    ("name", "layout"), [(name, layout) for name, (_, layouts) in CASES.items() for layout in layouts]
)
def test_there_and_back_is_bitwise_the_same(name, layout):
    changes = CASES[name][0]
    ours = random_weights(name, **changes)
    theirs = convert_state_dict(ours, name, "bestiary", layout, **changes)
    assert len(theirs) == len(ours)
    assert same_weights(convert_state_dict(theirs, f"{name}.in1k", layout, "bestiary", **changes), ours)


def shapes_of(module):
    return {key: tuple(value.shape) for key, value in module.state_dict().items()}


def converted_shapes(name, target, **changes):
    with torch.device("meta"):
        ours = build_classifier(name, **changes).state_dict()
    return {key: tuple(v.shape) for key, v in convert_state_dict(ours, name, "bestiary", target, **changes).items()}


@pytest.mark.parametrize("name", [n for n in (*ResNet.ARCHS, *MobileNetV2.ARCHS) if timm.is_model(n)])
def test_timms_keys_and_shapes(name):
    with torch.device("meta"):
        theirs = timm.create_model(name)
    assert converted_shapes(name, "timm") == shapes_of(theirs)


@pytest.mark.parametrize("depth", ["18", "34", "50", "101", "152"])
def test_torchvisions_keys_and_shapes(depth):
    with torch.device("meta"):
        theirs = shapes_of(getattr(torchvision.models, f"resnet{depth}")())
        as_timm = shapes_of(timm.create_model(f"resnet{depth}", block_args=dict(attn_layer="eca")))
    assert converted_shapes(f"resnet{depth}", "official") == theirs
    official = converted_shapes(f"eca_resnet{depth}", "official")
    assert {key: shape for key, shape in official.items() if ".eca." not in key} == theirs
    assert converted_shapes(f"eca_resnet{depth}", "timm", eca_kernels=None) == as_timm


# Keys of the authors' files and their shapes: ECA-ResNet-50 of kernels 3, 5, 5, 7, and ECA-MobileNetV2.
OFFICIAL = {
    "eca_resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "bn1.running_mean": (64,),
        "layer1.0.eca.conv.weight": (1, 1, 3),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer1.0.downsample.1.bias": (256,),
        "layer2.3.eca.conv.weight": (1, 1, 5),
        "layer3.5.conv2.weight": (256, 256, 3, 3),
        "layer4.2.eca.conv.weight": (1, 1, 7),
        "layer4.2.bn3.weight": (2048,),
        "fc.weight": (1000, 2048),
        "fc.bias": (1000,),
    },
    "eca_mobilenetv2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.0.1.bias": (32,),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.1.conv.1.weight": (16, 32, 1, 1),
        "features.1.conv.2.running_var": (16,),
        "features.1.conv.3.conv.weight": (1, 1, 1),
        "features.2.conv.0.0.weight": (96, 16, 1, 1),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.10.conv.4.conv.weight": (1, 1, 1),
        "features.11.conv.4.conv.weight": (1, 1, 3),
        "features.17.conv.2.weight": (320, 960, 1, 1),
        "features.17.conv.3.weight": (320,),
        "features.18.0.weight": (1280, 320, 1, 1),
        "features.18.1.running_mean": (1280,),
        "classifier.1.weight": (1000, 1280),
    },
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_official_keys(name):
    official = converted_shapes(name, "official")
    assert {key: official.get(key) for key in OFFICIAL[name]} == OFFICIAL[name]


@pytest.mark.parametrize(("name", "plain"), [("ela_b_resnet18", "resnet18"), ("ela_b_mobilenetv2", "mobilenetv2_100")])
@pytest.mark.parametrize("layout", ["timm", "official"])
def test_ela_has_no_place_in_the_others(name, plain, layout):
    assert converted_shapes(name, layout) == converted_shapes(plain, layout)


def test_the_authors_file_is_recognised(tmp_path):
    """As they save it: a dict with `state_dict`, every key behind `module.`, the arch under another name."""
    changes = dict(SMALL, eca_kernels=(3, 5, 5, 7))
    ours = random_weights("eca_resnet50", **changes)
    theirs = convert_state_dict(ours, "eca_resnet50", "bestiary", "official", **changes)
    path = tmp_path / "eca_resnet50_k3557.pth.tar"
    saved = {f"module.{key}": value for key, value in theirs.items()}
    torch.save(dict(arch="se_resnet50", epoch=99, state_dict=saved), path)
    model = build_classifier("eca_resnet50", 10, **SMALL)
    load_classifier(model, "eca_resnet50", str(path))
    assert same_weights({key: value.clone() for key, value in model.state_dict().items()}, ours)
    backbone = ResNet("eca_resnet50", init_cfg=dict(type="Pretrained", checkpoint=str(path)), **SMALL)
    backbone.init_weights()
    key = "stages.3.blocks.0.join.attn.conv.weight"
    assert torch.equal(backbone.state_dict()[key], ours[f"backbone.{key}"])


def test_by_timms_rule_the_authors_file_does_not_fit(tmp_path):
    ours = random_weights("eca_resnet50", **SMALL)
    theirs = convert_state_dict(ours, "eca_resnet50", "bestiary", "official", **SMALL)
    path = tmp_path / "weights.pth"
    torch.save(theirs, path)
    model = build_classifier("eca_resnet50", 10, like="timm", **SMALL)
    message = r"does not fit eca_resnet50: .* mis-shaped \(backbone.stages.1.blocks.0.join.attn.conv.weight \[1, 1, 5\]"
    with pytest.raises(InputError, match=message):
        load_classifier(model, "eca_resnet50", str(path))


def test_weights_of_another_network_are_refused(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(convert_state_dict(random_weights("resnet18", **SMALL), "resnet18", "bestiary", "timm", **SMALL), path)
    with pytest.raises(InputError, match="not weights of eca_mobilenetv2 in any known layout"):
        load_classifier(build_classifier("eca_mobilenetv2", 10), "eca_mobilenetv2", str(path))


def test_plain_weights_start_a_network_with_attention(tmp_path):
    path = tmp_path / "weights.pth"
    plain = random_weights("resnet18", **SMALL)
    torch.save(convert_state_dict(plain, "resnet18", "bestiary", "timm", **SMALL), path)
    load = dict(type="Pretrained", checkpoint=str(path))
    with pytest.raises(InputError, match="15 missing"):
        ResNet("ela_b_resnet18", init_cfg=load, **SMALL).init_weights()
    backbone = ResNet("ela_b_resnet18", init_cfg=dict(load, strict=False), **SMALL)
    backbone.init_weights()
    key = "stages.2.blocks.0.convs.1.conv.weight"
    assert torch.equal(backbone.state_dict()[key], plain[f"backbone.{key}"])


def test_names_are_found():
    assert set(list_backbones("ela_?_mobilenetv2")) == {f"ela_{size}_mobilenetv2" for size in "tbsl"}
