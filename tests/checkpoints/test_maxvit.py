"""Names and shapes of MaxViT's weights."""

import pytest
import timm
import torch
from networks import random_weights, same_weights

from bestiary.backbones import MaxViT
from bestiary.backbones.mixers.block_grid_attention import resize_table
from bestiary.checkpoints import build_classifier, convert_state_dict
from bestiary.checkpoints.maxvit import without_shadows

SMALL = dict(depths=(2, 1, 1, 1), dims=(32, 64, 64, 96), stem_dims=(16, 32))
# One of each structure; the others differ from these in depths, widths and windows alone.
QUICK = {"tiny_tf_224", "tiny_tf_384", "nano_rw_256", "rmlp_nano_rw_256", "rmlp_small_rw_224", "rmlp_base_rw_224"}


@pytest.mark.parametrize(
    ("name", "layout"),
    [
        ("maxvit_tiny_tf_224", "timm"),
        ("maxvit_tiny_tf_224", "official"),
        ("maxvit_nano_rw_256", "timm"),
        ("maxvit_rmlp_small_rw_224", "timm"),
        ("maxvit_rmlp_base_rw_224", "timm"),
    ],
)
@pytest.mark.parametrize("window", [3, (2, 3)])
def test_there_and_back_is_bitwise_the_same(name, layout, window):
    changes = dict(SMALL, table_window=window)
    ours = random_weights(name, **changes)
    theirs = convert_state_dict(ours, name, "bestiary", layout, **changes)
    back = convert_state_dict(theirs, name, layout, "bestiary", **changes)
    counted = {key for key in ours if key.endswith("num_batches_tracked")}  # TensorFlow does not count batches
    assert same_weights(back, {key: ours[key] for key in ours if layout == "timm" or key not in counted})


@pytest.mark.parametrize(
    "arch", [arch if arch in QUICK else pytest.param(arch, marks=pytest.mark.slow) for arch in MaxViT.ARCHS]
)
def test_timms_keys_and_shapes(arch):
    name = f"maxvit_{arch}"
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=10).state_dict()
        shapes = build_classifier(name, num_classes=10).state_dict()
    converted = convert_state_dict(shapes, name, "bestiary", "timm")
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in theirs.items()}


# Variables of the authors' MaxViT-T by name, with their shapes: the stem, a block that widens, the head.
OFFICIAL = {
    "maxvit/stem/conv_0/kernel": (3, 3, 3, 64),
    "maxvit/stem/conv_0/bias": (64,),
    "maxvit/stem/norm_0/gamma": (64,),
    "maxvit/stem/norm_0/moving_variance": (64,),
    "maxvit/stem/conv_1/kernel": (3, 3, 64, 64),
    "maxvit/block_01_00/mbconv/pre_norm/beta": (64,),
    "maxvit/block_01_00/mbconv/expand_conv/kernel": (1, 1, 64, 512),
    "maxvit/block_01_00/mbconv/expand_norm/moving_mean": (512,),
    "maxvit/block_01_00/mbconv/depthwise_conv/depthwise_kernel": (3, 3, 512, 1),
    "maxvit/block_01_00/mbconv/depthwise_norm/gamma": (512,),
    "maxvit/block_01_00/mbconv/se/reduce_conv2d/kernel": (1, 1, 512, 32),
    "maxvit/block_01_00/mbconv/se/expand_conv2d/kernel": (1, 1, 32, 512),
    "maxvit/block_01_00/mbconv/se/expand_conv2d/bias": (512,),
    "maxvit/block_01_00/mbconv/shrink_conv/kernel": (1, 1, 512, 128),
    "maxvit/block_01_00/mbconv/shrink_conv/bias": (128,),
    "maxvit/block_01_00/mbconv/shortcut_conv/kernel": (1, 1, 64, 128),
    "maxvit/block_01_00/attn_layer_norm/gamma": (128,),
    "maxvit/block_01_00/attention/q/weight": (128, 4, 32),
    "maxvit/block_01_00/attention/k/bias": (4, 32),
    "maxvit/block_01_00/attention/o/weight": (4, 32, 128),
    "maxvit/block_01_00/attention/o/bias": (128,),
    "maxvit/block_01_00/attention/relative_bias": (4, 13, 13),
    "maxvit/block_01_00/ffn_layer_norm/beta": (128,),
    "maxvit/block_01_00/ffn/expand_dense/weight": (128, 512),
    "maxvit/block_01_00/ffn/shrink_dense/weight": (512, 128),
    "maxvit/block_01_00/attn_layer_norm_1/beta": (128,),
    "maxvit/block_01_00/attention_1/v/weight": (128, 4, 32),
    "maxvit/block_02_04/attention_1/relative_bias": (8, 13, 13),
    "maxvit/block_01_00/ffn_layer_norm_1/gamma": (128,),
    "maxvit/block_01_00/ffn_1/shrink_dense/bias": (128,),
    "maxvit/final_layer_norm/gamma": (512,),
    "maxvit/cls_head/inner_dense/weight": (512, 512),
    "maxvit/cls_head/logit_dense/weight": (512, 10),
    "maxvit/cls_head/logit_dense/bias": (10,),
}


def test_official_names_shapes_and_values():
    ours = random_weights("maxvit_tiny_tf_224")
    official = convert_state_dict(ours, "maxvit_tiny_tf_224", "bestiary", "official")
    assert {key: tuple(official[key].shape) for key in OFFICIAL} == OFFICIAL
    assert "maxvit/block_00_00/mbconv/shortcut_conv/kernel" not in official  # widths agree there: pooling alone
    assert len(official) == sum(not key.endswith("num_batches_tracked") for key in ours) + 2 * 2 * 2 * 11  # q, k, v
    block, own = "maxvit/block_01_00", "backbone.stages.1.blocks.0"
    qkv, proj = ours[f"{own}.layers.0.token_mixer.qkv.weight"], ours[f"{own}.layers.0.token_mixer.proj.weight"]
    for index, part in enumerate("qkv"):
        for head in (0, 3):
            rows = qkv[128 * index + 32 * head : 128 * index + 32 * (head + 1)]
            assert torch.equal(official[f"{block}/attention/{part}/weight"][:, head], rows.T)
    assert torch.equal(official[f"{block}/attention/o/weight"][2, 5], proj[:, 2 * 32 + 5])
    kernel = ours[f"{own}.conv.depthwise.weight"]
    assert torch.equal(official[f"{block}/mbconv/depthwise_conv/depthwise_kernel"][2, 0, :, 0], kernel[:, 0, 2, 0])
    assert torch.equal(official["maxvit/stem/conv_1/kernel"][0, 2], ours["backbone.stem.conv2.weight"][:, :, 0, 2].T)
    expand = ours[f"{own}.conv.expand.weight"]
    assert torch.equal(official[f"{block}/mbconv/expand_conv/kernel"][0, 0], expand.T)
    table = ours[f"{own}.layers.1.token_mixer.rel_pos.table"]
    assert torch.equal(official[f"{block}/attention_1/relative_bias"], table)  # both are of key less query
    assert torch.equal(official["maxvit/cls_head/logit_dense/weight"], ours["head.fc.weight"].T)


def test_the_authors_averages_take_the_weights_place():
    variables = {
        "maxvit/a/kernel": torch.zeros(2),
        "maxvit/a/kernel/ExponentialMovingAverage": torch.ones(2),
        "maxvit/b/moving_mean": torch.full((2,), 3.0),
        "global_step": torch.tensor(7),
    }
    kept = without_shadows(variables)
    assert list(kept) == ["maxvit/a/kernel", "maxvit/b/moving_mean"]
    assert kept["maxvit/a/kernel"].tolist() == [1, 1] and kept["maxvit/b/moving_mean"].tolist() == [3, 3]


def saved(tmp_path, weights):
    path = tmp_path / "weights.pth"
    torch.save(weights, path)
    return str(path)


@pytest.mark.parametrize(
    ("arch", "layout"), [("tiny_tf_224", "timm"), ("tiny_tf_224", "official"), ("nano_rw_256", "timm")]
)
def test_tables_of_another_window_are_resized_at_loading(arch, layout, tmp_path):
    name, table = f"maxvit_{arch}", "stages.1.blocks.0.layers.1.token_mixer.rel_pos.table"
    ours = random_weights(name, **SMALL, table_window=4)
    file = saved(tmp_path, convert_state_dict(ours, name, "bestiary", layout, **SMALL, table_window=4))
    model = build_classifier(name, num_classes=10, pretrained=file, **SMALL, table_window=(3, 6))
    resize = "bilinear" if "tf" in arch else "geometric"
    wanted = resize_table(ours[f"backbone.{table}"], (3, 6), resize)
    assert wanted.shape[1:] == (5, 11)
    torch.testing.assert_close(model.backbone.get_parameter(table).data, wanted)
    assert torch.equal(model.head.fc.weight, ours["head.fc.weight"])
    backbone = MaxViT(arch, init_cfg=dict(type="Pretrained", checkpoint=file), **SMALL, table_window=(3, 6))
    backbone.init_weights()  # without a name for the head
    torch.testing.assert_close(backbone.get_parameter(table).data, wanted)
    assert torch.equal(backbone.stem.conv2.weight, ours["backbone.stem.conv2.weight"])
