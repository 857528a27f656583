"""Keys of NAT and its kin: the authors' and transformers', there and back; tables of another kernel size."""

import pytest
import torch
import torch.nn.functional as F
from networks import random_weights

from bestiary.backbones import NAT
from bestiary.checkpoints import build_classifier, convert_state_dict, load_classifier

SMALL = dict(depths=(1, 2, 1, 1), dims=(8, 16, 16, 16), num_heads=(1, 2, 2, 2), kernel_size=3)
CHANGES = {
    "nat_small": SMALL,
    "dinat_tiny": SMALL,
    "dinat_s_tiny": SMALL,
    "dinat_isotropic_small": dict(depths=(2,), dims=(16,), num_heads=(2,), kernel_size=3),
    "vitrpb_small": dict(depths=(2,), dims=(16,), num_heads=(2,)),
}


@pytest.mark.parametrize(
    ("name", "layout"),
    [(name, "official") for name in CHANGES] + [("nat_small", "transformers"), ("dinat_tiny", "transformers")],
)
def test_there_and_back_is_bitwise_the_same(name, layout):
    ours = random_weights(name, 7, **CHANGES[name])
    theirs = convert_state_dict(ours, name, "bestiary", layout, **CHANGES[name])
    back = convert_state_dict(theirs, name, layout, "bestiary", **CHANGES[name])
    assert back.keys() == ours.keys() and all(torch.equal(back[key], ours[key]) for key in ours)


@pytest.mark.parametrize(
    ("name", "keys"),
    {
        "nat_small": {
            "patch_embed.proj.0.weight": (4, 3, 3, 3),
            "patch_embed.proj.1.bias": (8,),
            "patch_embed.norm.weight": (8,),
            "levels.0.blocks.0.norm1.weight": (8,),
            "levels.0.blocks.0.gamma1": (8,),
            "levels.1.blocks.1.gamma2": (16,),
            "levels.1.blocks.1.attn.qkv.weight": (48, 16),
            "levels.1.blocks.0.attn.rpb": (2, 5, 5),
            "levels.3.blocks.0.attn.proj.bias": (16,),
            "levels.2.blocks.0.mlp.fc1.weight": (32, 16),
            "levels.0.downsample.reduction.weight": (16, 8, 3, 3),
            "levels.2.downsample.norm.bias": (16,),
            "norm.weight": (16,),
            "head.weight": (7, 16),
        },
        "dinat_s_tiny": {
            "patch_embed.proj.weight": (8, 3, 4, 4),
            "layers.0.downsample.reduction.weight": (16, 32),
            "layers.0.downsample.norm.weight": (32,),
            "layers.1.blocks.1.attn.rpb": (2, 5, 5),
            "layers.3.blocks.0.mlp.fc2.weight": (16, 64),
            "norm.bias": (16,),
            "head.bias": (7,),
        },
        "vitrpb_small": {
            "patch_embed.proj.weight": (16, 3, 16, 16),
            "patch_embed.norm.bias": (16,),
            "layers.1.attn.rpb": (2, 27, 27),
            "layers.0.attn.qkv.bias": (48,),
            "layers.0.mlp.fc1.weight": (64, 16),
            "norm.weight": (16,),
        },
    }.items(),
)
def test_official_keys(name, keys):
    official = convert_state_dict(
        random_weights(name, 7, **CHANGES[name]), name, "bestiary", "official", **CHANGES[name]
    )
    assert {key: tuple(official[key].shape) for key in keys} == keys
    assert not any("stages" in key or "backbone" in key or "mixer" in key for key in official)


def test_keys_of_transformers():
    ours = random_weights("nat_small", 7, **SMALL)
    theirs = convert_state_dict(ours, "nat_small", "bestiary", "transformers", **SMALL)
    block, own = "nat.encoder.levels.1.layers.1.", "backbone.stages.1.blocks.1."
    q, k, v = ours[f"{own}token_mixer.qkv.weight"].chunk(3)
    for key, value in {
        "nat.embeddings.patch_embeddings.projection.0.weight": ours["backbone.stem.conv1.weight"],
        "nat.embeddings.norm.bias": ours["backbone.stem.norm.bias"],
        f"{block}layernorm_before.weight": ours[f"{own}norm1.weight"],
        f"{block}attention.self.query.weight": q,
        f"{block}attention.self.key.weight": k,
        f"{block}attention.self.value.weight": v,
        f"{block}attention.self.rpb": ours[f"{own}token_mixer.rpb"],
        f"{block}attention.output.dense.bias": ours[f"{own}token_mixer.proj.bias"],
        f"{block}layernorm_after.weight": ours[f"{own}norm2.weight"],
        f"{block}intermediate.dense.weight": ours[f"{own}mlp.fc1.weight"],
        f"{block}output.dense.weight": ours[f"{own}mlp.fc2.weight"],
        f"{block}layer_scale_parameters": torch.stack([ours[f"{own}layer_scale{i}.scale"] for i in (1, 2)]),
        "nat.encoder.levels.0.downsample.reduction.weight": ours["backbone.stages.1.downsample.conv.weight"],
        "nat.layernorm.weight": ours["head.norm.weight"],
        "classifier.bias": ours["head.fc.bias"],
    }.items():
        assert torch.equal(theirs[key], value), key
    assert not any(key.startswith(("backbone", "head", "norms")) for key in theirs)


def test_index_tables_are_passed_over(tmp_path):
    ours = random_weights("vitrpb_small", 7, **CHANGES["vitrpb_small"])
    official = convert_state_dict(ours, "vitrpb_small", "bestiary", "official", **CHANGES["vitrpb_small"])
    official["layers.0.attn.relative_position_index"] = torch.zeros(196, 196, dtype=torch.long)
    torch.save(official, tmp_path / "w.pth")
    model = build_classifier("vitrpb_small", 7, pretrained=str(tmp_path / "w.pth"), **CHANGES["vitrpb_small"])
    assert torch.equal(model.backbone.stages[0].blocks[1].token_mixer.rpb, official["layers.1.attn.rpb"])


@pytest.mark.parametrize("layout", ["bestiary", "official", "transformers"])
def test_tables_of_another_kernel_size_are_resampled(tmp_path, layout):
    ours = random_weights("nat_small", 7, **SMALL)
    torch.save(convert_state_dict(ours, "nat_small", "bestiary", layout, **SMALL), tmp_path / "w.pth")
    larger = build_classifier("nat_small", 7, **SMALL | dict(kernel_size=5))
    load_classifier(larger, "nat_small", str(tmp_path / "w.pth"))
    small, large = (
        ours["backbone.stages.1.blocks.0.token_mixer.rpb"],
        larger.backbone.stages[1].blocks[0].token_mixer.rpb,
    )
    expected = F.interpolate(small[None], (9, 9), mode="bicubic", align_corners=True)[0]
    torch.testing.assert_close(large.detach(), expected)
    assert torch.equal(larger.head.fc.weight, ours["head.fc.weight"])


def test_a_detectors_backbone_with_its_norms(tmp_path):
    """The authors' dense networks have a norm an output and no head."""
    arch = SMALL | dict(mlp_ratio=2.0, layer_scale_init=1e-5)
    source = NAT(arch)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(torch.randn_like(parameter))
    weights = convert_state_dict(source.state_dict(), "nat_small", "bestiary", "official", **SMALL)
    assert weights["norm2.weight"].shape == (16,) and "norm.weight" not in weights
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in weights.items()}}, tmp_path / "det.pth")
    target = NAT(arch, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "det.pth")))
    target.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
