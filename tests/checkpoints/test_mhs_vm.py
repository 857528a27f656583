"""Keys of MHS-VM's encoder in the authors' files: there and back, and what of a file is passed over."""

import torch
from networks import random_weights

from bestiary.backbones import MHSVM
from bestiary.checkpoints import convert_state_dict

SMALL = dict(depths=(1, 2, 1, 1), dims=(12, 12, 24, 24), d_state=3, patterns=["continuous", "diagonal", "spiral"])


def test_there_and_back_is_bitwise_the_same():
    ours = random_weights("mhsvm_tiny", 7, **SMALL)
    theirs = convert_state_dict(ours, "mhsvm_tiny", "bestiary", "official", **SMALL)
    back = convert_state_dict(theirs, "mhsvm_tiny", "official", "bestiary", **SMALL)
    without_head = {key: value for key, value in ours.items() if not key.startswith("head.")}
    assert back.keys() == without_head.keys()
    assert all(torch.equal(back[key], ours[key]) for key in back)
    assert len(theirs) == 4 + 3 * 3 + 5 * (2 + 1 + 2 + 2 + 1 + 2 + 1 + 3 * 5)  # stem, mergings, blocks


def test_official_keys():
    ours = random_weights("mhsvm_tiny", 7, **SMALL)
    theirs = convert_state_dict(ours, "mhsvm_tiny", "bestiary", "official", **SMALL)
    block = "vmunet.layers.1.blocks.1."
    for key, shape in {
        "vmunet.patch_embed.proj.bias": (12,),
        "vmunet.patch_embed.norm.weight": (12,),
        f"{block}ln_1.bias": (12,),
        f"{block}self_attention.in_proj.weight": (24, 12),
        f"{block}self_attention.conv2d.weight": (12, 1, 3, 3),
        f"{block}self_attention.out_norm.bias": (12,),
        f"{block}self_attention.mhs.x_ssproj.weight": (12, 12),
        f"{block}self_attention.mhs.cat_norm.weight": (12,),
        f"{block}self_attention.mhs.y_proj.weight": (12, 12),
        f"{block}self_attention.mhs.scanhead_C.mambaeng.x_proj_weight": (4, 1 + 2 * 3, 4),
        f"{block}self_attention.mhs.scanhead_X.mambaeng.dt_projs_weight": (4, 4, 1),
        f"{block}self_attention.mhs.scanhead_S.mambaeng.dt_projs_bias": (4, 4),
        f"{block}self_attention.mhs.scanhead_X.mambaeng.A_logs": (16, 3),
        f"{block}self_attention.mhs.scanhead_S.mambaeng.Ds": (16,),
        "vmunet.layers.2.downsample.norm.bias": (96,),
        "vmunet.layers.1.downsample.reduction.weight": (24, 48),
    }.items():
        assert tuple(theirs[key].shape) == shape, key
    assert not any("stages" in key or "mixer" in key or "head." in key for key in theirs)
    own = ours["backbone.stages.1.blocks.1.token_mixer.heads.scan.A_log"]
    name = f"{block}self_attention.mhs.scanhead_X.mambaeng.A_logs"
    assert torch.equal(own[4 + 3, 2], theirs[name][3 * 4 + 2])  # of the second head, the fourth route


def test_a_backbone_takes_the_encoder_of_a_file(tmp_path):
    ours = random_weights("mhsvm_tiny", 7, **SMALL)
    theirs = convert_state_dict(ours, "mhsvm_tiny", "bestiary", "official", **SMALL)
    key = "vmunet.layers.0.blocks.0.self_attention.mhs."
    theirs |= {
        "vmunet.layers_up.0.blocks.0.ln_1.weight": torch.ones(24),
        "vmunet.final_up.norm.weight": torch.ones(3),
        "vmunet.final_conv.bias": torch.ones(1),
        f"{key}x_ssproj_W": theirs[f"{key}x_ssproj.weight"],
        f"{key}scanhead_C.scanning.seq2seq_engine.Ds": theirs[f"{key}scanhead_C.mambaeng.Ds"],
    }
    torch.save(theirs, tmp_path / "unet.pth")
    backbone = MHSVM(
        "tiny", out_norm=False, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "unet.pth")), **SMALL
    )
    backbone.init_weights()
    for name, value in backbone.state_dict().items():
        assert torch.equal(value, ours[f"backbone.{name}"]), name
