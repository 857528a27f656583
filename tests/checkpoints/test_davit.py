"""DaViT's weights between our names, timm's, the authors' and Florence-2's."""

import pytest
import timm
import torch
from networks import random_weights, same_weights

from bestiary.backbones import DaViT, list_backbones
from bestiary.checkpoints import build_classifier, convert_state_dict
from bestiary.errors import InputError

TINY = dict(depths=(1, 1, 2, 1), dims=(8, 12, 16, 20), num_heads=(1, 2, 4, 2))


def backbone_part(weights):
    return {key: value for key, value in weights.items() if key.startswith("backbone.")}


@pytest.mark.parametrize(
    ("name", "layout"),
    [("davit_tiny", layout) for layout in ("timm", "official")]
    + [("davit_base_fl", layout) for layout in ("timm", "official", "tower")],
)
def test_there_and_back_is_bitwise_the_same(name, layout):
    ours = random_weights(name, **TINY)
    if name == "davit_base_fl" and layout != "timm":
        ours = backbone_part(ours)  # the release has no head
    theirs = convert_state_dict(ours, name, "bestiary", layout, **TINY)
    assert len(theirs) == len(ours)
    assert same_weights(convert_state_dict(theirs, name, layout, "bestiary", **TINY), ours)


@pytest.mark.parametrize("name", list_backbones("davit*"))
def test_timms_keys_and_shapes(name):
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=1000).state_dict()
        shapes = build_classifier(name).state_dict()
    converted = convert_state_dict(shapes, name, "bestiary", "timm")
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in theirs.items()}


def test_the_release_of_davit_tiny():
    """Names of the authors' file, with its shapes."""
    with torch.device("meta"):
        shapes = build_classifier("davit_tiny").state_dict()
    official = {k: tuple(v.shape) for k, v in convert_state_dict(shapes, "davit_tiny", "bestiary", "official").items()}
    for key, shape in {
        "patch_embeds.0.proj.weight": (96, 3, 7, 7),
        "patch_embeds.0.norm.bias": (96,),
        "patch_embeds.1.norm.weight": (96,),
        "patch_embeds.1.proj.weight": (192, 96, 2, 2),
        "patch_embeds.3.proj.bias": (768,),
        "main_blocks.0.0.0.cpe.0.proj.weight": (96, 1, 3, 3),
        "main_blocks.0.0.1.cpe.1.proj.bias": (96,),
        "main_blocks.0.0.0.attn.qkv.weight": (288, 96),
        "main_blocks.2.2.1.attn.proj.weight": (384, 384),
        "main_blocks.2.1.0.norm1.weight": (384,),
        "main_blocks.2.0.1.norm2.bias": (384,),
        "main_blocks.3.0.1.mlp.fc1.weight": (3072, 768),
        "main_blocks.3.0.0.mlp.fc2.bias": (768,),
        "norms.weight": (768,),
        "head.weight": (1000, 768),
        "head.bias": (1000,),
    }.items():
        assert official.pop(key) == shape, key
    assert len(official) == 212 - 16
    pairs = {".".join(key.split(".")[1:4]) for key in official if key.startswith("main_blocks.")}
    assert pairs == {f"{s}.{d}.{k}" for s, depth in enumerate((1, 1, 3, 1)) for d in range(depth) for k in "01"}


def test_which_weight_goes_where():
    ours = random_weights("davit_tiny", **TINY)
    official = convert_state_dict(ours, "davit_tiny", "bestiary", "official", **TINY)
    timms = convert_state_dict(ours, "davit_tiny", "bestiary", "timm", **TINY)
    for own, authors, timm_key in (
        ("stem.norm.weight", "patch_embeds.0.norm.weight", "stem.norm.weight"),
        ("stages.2.downsample.conv.bias", "patch_embeds.2.proj.bias", "stages.2.downsample.conv.bias"),
        ("stages.2.blocks.3.cpe1.conv.bias", "main_blocks.2.1.1.cpe.0.proj.bias", "stages.2.blocks.1.1.cpe1.proj.bias"),
        ("stages.2.blocks.2.cpe2.conv.bias", "main_blocks.2.1.0.cpe.1.proj.bias", "stages.2.blocks.1.0.cpe2.proj.bias"),
        ("stages.1.blocks.1.norm2.bias", "main_blocks.1.0.1.norm2.bias", "stages.1.blocks.0.1.norm2.bias"),
        ("stages.1.blocks.0.token_mixer.qkv.bias", "main_blocks.1.0.0.attn.qkv.bias", None),
        ("stages.3.blocks.0.mlp.fc2.weight", "main_blocks.3.0.0.mlp.fc2.weight", "stages.3.blocks.0.0.mlp.fc2.weight"),
    ):
        assert torch.equal(official[authors], ours[f"backbone.{own}"]), own
        timm_key = timm_key or authors.replace("main_blocks.1", "stages.1.blocks")
        assert torch.equal(timms[timm_key], ours[f"backbone.{own}"]), own


def test_output_norms_are_the_detectors():
    weights = {key: torch.randn(value.shape) for key, value in DaViT(TINY).state_dict().items()}
    official = convert_state_dict(weights, "davit_tiny", "bestiary", "official", **TINY)
    for stage in range(4):
        assert torch.equal(official[f"norm{stage}.bias"], weights[f"norms.{stage}.bias"])
    assert len(official) == len(weights)
    timms = convert_state_dict(weights, "davit_tiny", "bestiary", "timm", **TINY)
    assert len(timms) == len(weights) - 8


def test_the_release_of_florence2():
    ours = backbone_part(random_weights("davit_base_fl", **TINY))
    tower = convert_state_dict(ours, "davit_base_fl", "bestiary", "tower", **TINY)
    start = "backbone.stages.2.blocks."
    for theirs, own in {
        "convs.0.proj.weight": "backbone.stem.conv.weight",
        "convs.0.norm.bias": "backbone.stem.norm.bias",
        "convs.3.proj.bias": "backbone.stages.3.downsample.conv.bias",
        "convs.2.norm.weight": "backbone.stages.2.downsample.norm.weight",
        "blocks.2.1.spatial_block.conv1.fn.dw.weight": f"{start}2.cpe1.conv.weight",
        "blocks.2.1.spatial_block.window_attn.norm.weight": f"{start}2.norm1.weight",
        "blocks.2.1.spatial_block.window_attn.fn.qkv.weight": f"{start}2.token_mixer.qkv.weight",
        "blocks.2.0.channel_block.channel_attn.norm.bias": f"{start}1.norm1.bias",
        "blocks.2.0.channel_block.channel_attn.fn.proj.bias": f"{start}1.token_mixer.proj.bias",
        "blocks.2.0.channel_block.conv2.fn.dw.bias": f"{start}1.cpe2.conv.bias",
        "blocks.2.0.channel_block.ffn.norm.weight": f"{start}1.norm2.weight",
        "blocks.2.1.channel_block.ffn.fn.net.fc1.weight": f"{start}3.mlp.fc1.weight",
    }.items():
        assert torch.equal(tower[theirs], ours[own]), theirs
    assert len(tower) == len(ours)
    # The file of the whole model: the tower under a prefix, the language model beside it.
    whole = {f"vision_tower.{key}": value for key, value in tower.items()}
    assert same_weights(convert_state_dict(ours, "davit_base_fl", "bestiary", "official", **TINY), whole)
    beside = {
        "language_model.model.shared.weight": torch.ones(3),
        "image_projection": torch.ones(2),
        "image_proj_norm.weight": torch.ones(2),
        "image_pos_embed.row_embeddings.weight": torch.ones(2),
        "visual_temporal_embed.pos_idx_to_embed": torch.ones(2),
    }
    assert same_weights(convert_state_dict({**whole, **beside}, "davit_base_fl", "official", "bestiary", **TINY), ours)
    timms = convert_state_dict({**whole, **beside}, "davit_base_fl", "official", "timm", **TINY)
    assert "stages.0.blocks.0.spatial_block.attn.qkv.weight" in timms and len(timms) == len(ours)


@pytest.mark.parametrize("layout", ["timm", "official", "tower"])
def test_a_backbone_loads_weights_of_every_layout(tmp_path, layout):
    source = DaViT({**TINY, "channel_form": "florence2", "down_kernel_size": 3, "window_size": 12}, out_norm=False)
    weights = convert_state_dict(source.state_dict(), "davit_base_fl", "bestiary", layout, **TINY)
    torch.save({"state_dict": weights}, tmp_path / "tower.pth")
    arch = {key: value for key, value in vars(source.arch).items() if key not in ("name", "out_norm")}
    loaded = DaViT(arch, window_size=5, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "tower.pth")))
    loaded.init_weights()  # no weight hangs on the window
    own = {key: value for key, value in loaded.state_dict().items() if not key.startswith("norms.")}
    assert same_weights(own, source.state_dict())


def test_weights_of_another_form_are_refused():
    tiny = convert_state_dict(random_weights("davit_tiny", **TINY), "davit_tiny", "bestiary", "timm", **TINY)
    with pytest.raises(InputError, match=r"keys are not timm keys of davit_base_fl: stages\.0\.blocks\.0\.0\."):
        convert_state_dict(tiny, "davit_base_fl", "timm", "bestiary", **TINY)
    with pytest.raises(InputError, match="davit_tiny: no key map for 'tower'; there are bestiary, timm, official"):
        convert_state_dict(tiny, "davit_tiny", "tower", "bestiary", **TINY)
