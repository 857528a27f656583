"""Keys of BiFormer: the authors', there and back, of every form; regions that change with the weights as they are."""

import pytest
import torch
from networks import random_weights

from bestiary.backbones import BiFormer
from bestiary.checkpoints import build_classifier, convert_state_dict, load_classifier

SMALL = dict(depths=(1, 2, 1, 1), dims=(8, 16, 16, 24), head_dim=4, n_win=3, topk=(1, 3, 0, -2))
CHANGES = {
    "biformer_tiny": SMALL | dict(layer_scale_init=0.5),
    "biformer_stl": SMALL | dict(topk=(1, -1, 9, -2)),
    "biformer_stl_nchw": SMALL | dict(topk=(1, 4, 9, -1)),
}


def official_weights(name):
    return convert_state_dict(random_weights(name, 7, **CHANGES[name]), name, "bestiary", "official", **CHANGES[name])


@pytest.mark.parametrize("name", CHANGES)
def test_there_and_back_is_bitwise_the_same(name):
    ours = random_weights(name, 7, **CHANGES[name])
    theirs = convert_state_dict(ours, name, "bestiary", "official", **CHANGES[name])
    back = convert_state_dict(theirs, name, "official", "bestiary", **CHANGES[name])
    assert len(theirs) == len(ours)
    assert back.keys() == ours.keys() and all(torch.equal(back[key], ours[key]) for key in ours)


def norm(key, dim):
    """A batch norm's keys."""
    return {f"{key}.{part}": (dim,) for part in ("weight", "bias", "running_mean", "running_var")} | {
        f"{key}.num_batches_tracked": ()
    }


def layer(key, *shape):
    return {f"{key}.weight": shape, f"{key}.bias": shape[:1]}


def block(key, dim, hidden, mixer, second, position):
    """A block's keys: norms, MLP, position if any, and the mixer's, given with their shapes."""
    found = layer(f"{key}.norm1", dim) | layer(f"{key}.norm2", dim)
    found |= layer(f"{key}.mlp.0", hidden, dim) | layer(f"{key}.mlp.{second}", dim, hidden)
    return found | (layer(f"{key}.pos_embed", dim, 1, 3, 3) if position else {}) | mixer


def routed(key, dim):
    return layer(f"{key}.qkv.qkv", 3 * dim, dim) | layer(f"{key}.wo", dim, dim) | layer(f"{key}.lepe", dim, 1, 5, 5)


def attended(key, dim, lepe=True):
    found = {f"{key}.qkv.weight": (3 * dim, dim)} | layer(f"{key}.proj", dim, dim)
    return found | (layer(f"{key}.lepe", dim, 1, 5, 5) if lepe else {})


def test_all_keys_of_the_release():
    """Written down after the released networks, all of them."""
    expected = (
        layer("downsample_layers.0.0", 4, 3, 3, 3)
        | norm("downsample_layers.0.1", 4)
        | layer("downsample_layers.0.3", 8, 4, 3, 3)
        | norm("downsample_layers.0.4", 8)
    )
    for stage, (before, dim) in enumerate(((8, 16), (16, 16), (16, 24)), start=1):
        expected |= layer(f"downsample_layers.{stage}.0", dim, before, 3, 3) | norm(f"downsample_layers.{stage}.1", dim)
    convolution = (
        layer("stages.2.0.attn.1", 16, 16, 1, 1)
        | layer("stages.2.0.attn.2", 16, 1, 5, 5)
        | layer("stages.2.0.attn.3", 16, 16, 1, 1)
    )
    for key, dim, mixer in (
        ("stages.0.0", 8, routed("stages.0.0.attn", 8)),
        ("stages.1.0", 16, routed("stages.1.0.attn", 16)),
        ("stages.1.1", 16, routed("stages.1.1.attn", 16)),
        ("stages.2.0", 16, convolution),
        ("stages.3.0", 24, attended("stages.3.0.attn", 24)),
    ):
        expected |= block(key, dim, 3 * dim, mixer, 3, True) | {f"{key}.gamma1": (dim,), f"{key}.gamma2": (dim,)}
    expected |= norm("norm", 24) | layer("head", 7, 24)
    assert {key: tuple(value.shape) for key, value in official_weights("biformer_tiny").items()} == expected


def swin(dims):
    expected = layer("downsample_layers.0.0", dims[0], 3, 4, 4) | norm("downsample_layers.0.1", dims[0])
    for stage in (1, 2, 3):
        before, dim = dims[stage - 1 : stage + 1]
        expected |= norm(f"downsample_layers.{stage}.0", before)
        expected |= layer(f"downsample_layers.{stage}.1", dim, before, 2, 2)
    return expected | norm("norm", dims[3]) | layer("head", 7, dims[3])


def test_all_keys_of_swins_layout():
    expected = swin((8, 16, 16, 24))
    for key, dim, mixer in (
        ("stages.0.blocks.0", 8, routed("stages.0.blocks.0.attn", 8)),
        ("stages.1.blocks.0", 16, attended("stages.1.blocks.0.attn", 16, lepe=False)),
        ("stages.1.blocks.1", 16, attended("stages.1.blocks.1.attn", 16, lepe=False)),
        ("stages.2.blocks.0", 16, routed("stages.2.blocks.0.attn", 16)),
        ("stages.3.blocks.0", 24, attended("stages.3.blocks.0.attn", 24)),
    ):
        expected |= block(key, dim, 4 * dim, mixer, 2, False)
    assert {key: tuple(value.shape) for key, value in official_weights("biformer_stl").items()} == expected


def test_all_keys_of_the_rewrite():
    """Its projections and MLPs are convolutions of 1 x 1."""
    expected = swin((8, 16, 16, 24))
    for key, dim in (
        ("stages.0.blocks.0", 8), ("stages.1.blocks.0", 16), ("stages.1.blocks.1", 16), ("stages.2.blocks.0", 16),
    ):  # fmt: skip
        mixer = (
            layer(f"{key}.attn.qkv_linear", 3 * dim, dim, 1, 1)
            | layer(f"{key}.attn.output_linear", dim, dim, 1, 1)
            | layer(f"{key}.attn.lepe", dim, 1, 5, 5)
        )
        expected |= block(key, dim, 4 * dim, mixer, 2, False)
    last = "stages.3.blocks.0"
    mixer = {f"{last}.attn.qkv.weight": (72, 24, 1, 1)} | layer(f"{last}.attn.proj", 24, 24, 1, 1)
    expected |= block(last, 24, 96, mixer | layer(f"{last}.attn.lepe", 24, 1, 5, 5), 2, False)
    expected = {
        key: (*shape, 1, 1) if ".mlp." in key and key.endswith("weight") else shape for key, shape in expected.items()
    }
    assert {key: tuple(value.shape) for key, value in official_weights("biformer_stl_nchw").items()} == expected


def test_the_rewrite_takes_the_release_reshaped():
    """Its weights are the release's with linear layers as 1 x 1 convolutions, and give the same on divided maps."""
    changes = SMALL | dict(topk=(1, 4, 9, -1), depths=(1, 1, 1, 1))
    linear = BiFormer("stl", **changes | dict(topk=(1, 4, 9, -2)))
    convs = BiFormer("stl_nchw", **changes)
    convs.load_state_dict(linear.state_dict())
    x = torch.randn(2, 3, 96, 96)
    maps = linear.eval()(x), convs.eval()(x)  # of 24, 12, 6 tokens a side: 3 regions divide them
    for one, other in zip(*(each[:3] for each in maps), strict=True):
        torch.testing.assert_close(one, other)
    assert not torch.allclose(maps[0][3], maps[1][3])  # there the convolution sees the values, not the input


def test_a_routers_projection_and_pooled_keys():
    mixer = dict(type="BiLevelRouting", soft_routing=True, diff_routing=True, param_routing=True)
    changes = SMALL | dict(
        token_mixers=[mixer | dict(kv_downsample_mode="avgpool"), None, mixer, None], topk=(2, 3, 3, -2)
    )
    ours = random_weights("biformer_tiny", 7, **changes)
    theirs = convert_state_dict(ours, "biformer_tiny", "bestiary", "official", **changes)
    assert theirs["stages.2.0.attn.router.emb.weight"].shape == (16, 16)
    back = convert_state_dict(theirs, "biformer_tiny", "official", "bestiary", **changes)
    assert back.keys() == ours.keys() and all(torch.equal(back[key], ours[key]) for key in ours)


def test_regions_change_with_the_weights_as_they_are(tmp_path):
    torch.save({"model": official_weights("biformer_tiny")}, tmp_path / "w.pth")
    models = []
    for n_win in (3, 4):
        model = build_classifier("biformer_tiny", 7, **CHANGES["biformer_tiny"] | dict(n_win=n_win))
        load_classifier(model, "biformer_tiny", str(tmp_path / "w.pth"))
        models.append(model.eval())
    assert all(torch.equal(a, b) for a, b in zip(*(model.state_dict().values() for model in models), strict=True))
    x = torch.randn(1, 3, 96, 96)
    assert not torch.allclose(*(model.backbone(x)[0] for model in models))


def test_a_detectors_backbone_with_its_norms(tmp_path):
    """The authors' dense networks have a norm an output, and neither head nor last norm."""
    changes = CHANGES["biformer_tiny"]
    source = BiFormer("tiny", **changes)
    with torch.no_grad():
        for parameter in source.parameters():
            parameter.copy_(torch.randn_like(parameter))
    weights = convert_state_dict(source.state_dict(), "biformer_tiny", "bestiary", "official", **changes)
    assert weights["extra_norms.2.weight"].shape == (16,) and "norm.weight" not in weights
    torch.save({"state_dict": {f"backbone.{key}": value for key, value in weights.items()}}, tmp_path / "det.pth")
    target = BiFormer("tiny", **changes, init_cfg=dict(type="Pretrained", checkpoint=str(tmp_path / "det.pth")))
    target.init_weights()
    for key, value in source.state_dict().items():
        assert torch.equal(target.state_dict()[key], value), key
