"""The baselines' weights between our names, timm's and the authors'. PoolFormer's: test_convert.py."""

import pytest
import timm
import torch
from networks import random_weights, same_weights

from bestiary.backbones import CAFormer, list_backbones
from bestiary.checkpoints import build_classifier, convert_state_dict
from bestiary.errors import InputError

TINY = dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20))
NAMES = ("poolformerv2_s12", "identityformer_s12", "randformer_s12", "convformer_s18", "caformer_s18", "metaformer_s18")
OF_TIMM = [name for start in ("poolformerv2", "convformer", "caformer") for name in list_backbones(f"{start}_*")]


def shapes_of(state_dict):
    return {key: tuple(value.shape) for key, value in state_dict.items()}


@pytest.mark.parametrize("layout", ["bestiary", "timm", "official"])
@pytest.mark.parametrize("name", NAMES)
def test_there_and_back_is_bitwise_the_same(name, layout):
    ours = random_weights(name, **TINY)
    theirs = convert_state_dict(ours, name, "bestiary", layout, **TINY)
    assert len(theirs) == len(ours)
    assert same_weights(convert_state_dict(theirs, name, layout, "bestiary", **TINY), ours)


@pytest.mark.parametrize("name", OF_TIMM)
def test_timms_keys_and_shapes(name):
    with torch.device("meta"):
        theirs = timm.create_model(name).state_dict()
        ours = build_classifier(name).state_dict()
    assert shapes_of(convert_state_dict(ours, name, "bestiary", "timm")) == shapes_of(theirs)


def official_shapes(name):
    with torch.device("meta"):
        ours = build_classifier(name).state_dict()
    official = shapes_of(convert_state_dict(ours, name, "bestiary", "official"))
    assert len(official) == len(ours)
    return official


def test_the_release_of_caformer_s18():
    """Names of the authors' file, with its shapes: linear layers are linear."""
    official = official_shapes("caformer_s18")
    for key, shape in {
        "downsample_layers.0.conv.weight": (64, 3, 7, 7),
        "downsample_layers.0.conv.bias": (64,),
        "downsample_layers.0.post_norm.weight": (64,),
        "downsample_layers.1.pre_norm.weight": (64,),
        "downsample_layers.3.conv.weight": (512, 320, 3, 3),
        "stages.0.0.norm1.weight": (64,),
        "stages.0.0.token_mixer.pwconv1.weight": (128, 64),
        "stages.0.0.token_mixer.act1.scale": (1,),
        "stages.0.0.token_mixer.act1.bias": (1,),
        "stages.0.0.token_mixer.dwconv.weight": (128, 1, 7, 7),
        "stages.1.2.token_mixer.pwconv2.weight": (128, 256),
        "stages.2.0.token_mixer.qkv.weight": (960, 320),
        "stages.2.8.token_mixer.proj.weight": (320, 320),
        "stages.3.2.mlp.fc1.weight": (2048, 512),
        "stages.3.2.mlp.act.scale": (1,),
        "stages.2.0.res_scale1.scale": (320,),
        "stages.3.0.res_scale2.scale": (512,),
        "norm.weight": (512,),
        "norm.bias": (512,),
        "head.fc1.weight": (2048, 512),
        "head.norm.bias": (2048,),
        "head.fc2.weight": (1000, 2048),
    }.items():
        assert official[key] == shape, key
    assert "stages.0.0.res_scale1.scale" not in official and "stages.0.0.norm1.bias" not in official


def test_the_release_of_randformer_s12():
    official = official_shapes("randformer_s12")
    assert official["stages.2.5.token_mixer.random_matrix"] == (196, 196)
    assert official["stages.3.1.token_mixer.random_matrix"] == (49, 49)
    assert not any("token_mixer" in key for key in official if key.startswith(("stages.0", "stages.1")))
    assert official["head.weight"] == (1000, 512) and official["norm.bias"] == (512,)


def test_values_stand_where_they_belong():
    ours = random_weights("caformer_s18", **TINY)
    timms, official = (convert_state_dict(ours, "caformer_s18", "bestiary", to, **TINY) for to in ("timm", "official"))
    for own, by_timm, by_authors in (
        ("backbone.stem.norm.weight", "stem.norm.weight", "downsample_layers.0.post_norm.weight"),
        ("backbone.stages.1.blocks.1.mlp.fc1.weight", "stages.1.blocks.1.mlp.fc1.weight", "stages.1.1.mlp.fc1.weight"),
        ("backbone.stages.2.blocks.0.mlp.fc2.weight", "stages.2.blocks.0.mlp.fc2.weight", "stages.2.0.mlp.fc2.weight"),
        ("head.norm.weight", "head.norm.weight", "norm.weight"),
        ("head.hidden.weight", "head.fc.fc1.weight", "head.fc1.weight"),
        ("head.hidden_norm.weight", "head.fc.norm.weight", "head.norm.weight"),
        ("head.fc.bias", "head.fc.fc2.bias", "head.fc2.bias"),
    ):
        assert torch.equal(timms[by_timm].flatten(), ours[own].flatten()), by_timm
        assert torch.equal(official[by_authors], ours[own]), by_authors
    convolved = {key for key, value in timms.items() if value.ndim == 4 and value.shape[-1] == 1}
    linear = {f"{layer}.weight" for layer in ("mlp.fc1", "mlp.fc2", "token_mixer.pwconv1", "token_mixer.pwconv2")}
    blocks = ("stages.0.blocks.0", "stages.1.blocks.0", "stages.1.blocks.1")  # those without attention
    assert convolved == {f"{block}.{layer}" for block in blocks for layer in linear}


def test_output_norms_are_ours_alone():
    weights = CAFormer(TINY).state_dict()
    for layout in ("timm", "official"):
        theirs = convert_state_dict(weights, "caformer_s18", "bestiary", layout, **TINY)
        assert len(theirs) == len(weights) - 8 and not any(key.startswith("norms") for key in theirs)


@pytest.mark.parametrize("layout", ["timm", "official"])
def test_a_backbone_takes_either_layout(layout, tmp_path):
    ours = random_weights("caformer_s18", **TINY)
    torch.save(convert_state_dict(ours, "caformer_s18", "bestiary", layout, **TINY), tmp_path / "w.pth")
    backbone = CAFormer(TINY, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "w.pth")))
    backbone.init_weights()
    own = {f"backbone.{key}": value for key, value in backbone.state_dict().items() if not key.startswith("norms.")}
    assert same_weights(own, {key: value for key, value in ours.items() if key.startswith("backbone.")})


def test_weights_of_another_family_are_refused():
    conv = convert_state_dict(random_weights("convformer_s18", **TINY), "convformer_s18", "bestiary", "timm", **TINY)
    with pytest.raises(InputError, match="not timm keys of caformer_s18: stages.2.blocks.0.token_mixer.pwconv"):
        convert_state_dict(conv, "caformer_s18", "timm", "bestiary", **TINY)


def test_random_matrices_of_another_size_are_refused(tmp_path):
    weights = random_weights("randformer_s12", img_size=64, **TINY)
    torch.save({"state_dict": weights}, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"random_matrix \[16, 16\] in the file, \[15, 15\] in the model"):
        build_classifier("randformer_s12", 10, pretrained=str(tmp_path / "w.pth"), img_size=(45, 71), **TINY)
