"""SHViT's weights between our names, timm's and the authors'."""

import pytest
import timm
import torch
from networks import same_weights

from bestiary.backbones import SHViT, list_backbones
from bestiary.checkpoints import build_classifier, convert_state_dict, load_classifier
from bestiary.errors import InputError

SMALL = dict(depths=(1, 2, 1), dims=(16, 20, 24), partial_dims=(4, 5, 7))


@pytest.fixture(scope="module")
def ours():
    """Weights of a small classifier of 10 classes, every value random."""
    generator = torch.Generator().manual_seed(0)
    shapes = build_classifier("shvit_s1", num_classes=10, **SMALL).state_dict()
    return {
        key: torch.randn(value.shape, generator=generator) if value.is_floating_point() else torch.tensor(7)
        for key, value in shapes.items()
    }


@pytest.mark.parametrize("layout", ["bestiary", "timm", "official"])
def test_there_and_back_is_bitwise_the_same(ours, layout):
    theirs = convert_state_dict(ours, "shvit_s1", "bestiary", layout, **SMALL)
    assert len(theirs) == len(ours)
    assert same_weights(convert_state_dict(theirs, "shvit_s1.in1k", layout, "bestiary", **SMALL), ours)


def test_timm_to_official_and_back(ours):
    timms = convert_state_dict(ours, "shvit_s1", "bestiary", "timm", **SMALL)
    official = convert_state_dict(timms, "shvit_s1", "timm", "official", **SMALL)
    assert same_weights(official, convert_state_dict(ours, "shvit_s1", "bestiary", "official", **SMALL))
    assert same_weights(convert_state_dict(official, "shvit_s1", "official", "timm", **SMALL), timms)


@pytest.mark.parametrize("name", list_backbones("shvit*"))
def test_timms_keys_and_shapes(name):
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
        shapes = build_classifier(name).state_dict()
    converted = convert_state_dict(shapes, name, "bestiary", "timm")
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in theirs.items()}


# Keys of the authors' shvit_s4 and their shapes.
OFFICIAL = {
    "patch_embed.0.c.weight": (28, 3, 3, 3),
    "patch_embed.6.bn.running_var": (224,),
    "blocks1.0.conv.m.c.weight": (224, 1, 3, 3),
    "blocks1.3.ffn.m.pw1.c.weight": (448, 224, 1, 1),
    "blocks1.3.ffn.m.pw2.bn.bias": (224,),
    "blocks2.0.0.m.c.weight": (224, 1, 3, 3),
    "blocks2.0.1.m.pw1.c.weight": (448, 224, 1, 1),
    "blocks2.1.conv1.c.weight": (896, 224, 1, 1),
    "blocks2.1.conv2.c.weight": (896, 1, 3, 3),
    "blocks2.1.conv2.bn.running_mean": (896,),
    "blocks2.1.se.fc1.weight": (224, 896, 1, 1),
    "blocks2.1.se.fc2.bias": (896,),
    "blocks2.1.conv3.c.weight": (336, 896, 1, 1),
    "blocks2.2.0.m.bn.weight": (336,),
    "blocks2.2.1.m.pw2.c.weight": (336, 672, 1, 1),
    "blocks2.3.mixer.m.pre_norm.weight": (72,),
    "blocks2.3.mixer.m.qkv.c.weight": (104, 72, 1, 1),
    "blocks2.9.mixer.m.proj.1.c.weight": (336, 336, 1, 1),
    "blocks2.9.mixer.m.proj.1.bn.num_batches_tracked": (),
    "blocks3.2.0.m.c.weight": (448, 1, 3, 3),
    "blocks3.8.ffn.m.pw1.bn.weight": (896,),
    "head.bn.running_mean": (448,),
    "head.l.weight": (1000, 448),
}


def test_official_keys_and_shapes():
    with torch.device("meta"):
        shapes = build_classifier("shvit_s4").state_dict()
    official = convert_state_dict(shapes, "shvit_s4", "bestiary", "official")
    assert len(official) == 635
    assert {key: tuple(official[key].shape) for key in OFFICIAL} == OFFICIAL
    depths = {part: len({k.split(".")[1] for k in official if k.startswith(f"{part}.")}) for part in _parts(official)}
    assert depths == {"patch_embed": 4, "blocks1": 4, "blocks2": 3 + 7, "blocks3": 3 + 6, "head": 2}


def _parts(keys):
    return dict.fromkeys(key.split(".")[0] for key in keys)


def test_official_places(ours):
    official = convert_state_dict(ours, "shvit_s1", "bestiary", "official", **SMALL)
    for theirs, own in {
        "blocks2.0.0.m.c.weight": "stages.1.downsample.conv1.conv.conv.weight",
        "blocks2.2.0.m.c.weight": "stages.1.downsample.conv2.conv.conv.weight",
        "blocks2.0.1.m.pw1.bn.weight": "stages.1.downsample.mlp1.fc1.bn.weight",
        "blocks3.2.1.m.pw2.bn.weight": "stages.2.downsample.mlp2.fc2.bn.weight",
        "blocks2.4.conv.m.bn.bias": "stages.1.blocks.1.conv.conv.bn.bias",
        "blocks2.4.mixer.m.qkv.bn.running_var": "stages.1.blocks.1.token_mixer.qkv.bn.running_var",
    }.items():
        assert torch.equal(official[theirs], ours[f"backbone.{own}"]), theirs


@pytest.mark.parametrize("layout", ["timm", "official"])
def test_a_file_of_any_layout_loads(ours, layout, tmp_path):
    path = tmp_path / "w.pth"
    torch.save({"model": convert_state_dict(ours, "shvit_s1", "bestiary", layout, **SMALL)}, path)
    model = build_classifier("shvit_s1", num_classes=10, pretrained=str(path), **SMALL)
    assert same_weights(dict(model.state_dict()), ours)
    backbone = SHViT(SMALL, out_indices=(1,), init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    backbone.init_weights()
    assert all(torch.equal(value, ours[f"backbone.{key}"]) for key, value in backbone.state_dict().items())


def test_another_size_is_refused(ours, tmp_path):
    path = tmp_path / "w.pth"
    torch.save(convert_state_dict(ours, "shvit_s1", "bestiary", "timm", **SMALL), path)
    with pytest.raises(InputError, match="does not fit shvit_s1: .*mis-shaped"):
        load_classifier(build_classifier("shvit_s1", 10), "shvit_s1", str(path))
