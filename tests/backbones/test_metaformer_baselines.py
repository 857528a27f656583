"""IdentityFormer, RandFormer, PoolFormerV2, ConvFormer, CAFormer: sizes, timm's arithmetic, the block's definition."""

from unittest import mock

import pytest
import timm
import torch
from networks import count, randomised
from timm.models import metaformer as timms
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import (
    CAFormer,
    ConvFormer,
    IdentityFormer,
    MetaFormer,
    PoolFormer,
    PoolFormerV2,
    RandFormer,
    build_backbone,
    list_backbones,
)
from bestiary.backbones.layers import GroupNorm1, MetaFormerBlock, Scale, StarMlp, StarReLU
from bestiary.backbones.mixers import RandomMixing, SelfAttention, SepConv
from bestiary.checkpoints import build_classifier
from bestiary.heads import LinearHead, MlpHead

# Parameters of the classifier of 1,000 classes, those of no gradient, and 10^9 multiply-adds at 224 x 224.
SIMPLE = dict(s12=11_891_712, s24=21_341_464, s36=30_791_216, m36=56_077_168, m48=73_346_056)
SIMPLE_MACS = dict(s12=1.812, s24=3.392, s36=4.972, m36=8.759, m48=11.533)  # PoolFormer's: pooling has none
FROZEN = dict(s12=235_298, s24=470_596, s36=705_894, m36=705_894, m48=941_192)
SIZES = {
    **{f"poolformerv2_{arch}": (count, 0, SIMPLE_MACS[arch]) for arch, count in SIMPLE.items()},
    **{f"identityformer_{arch}": (count, 0, SIMPLE_MACS[arch]) for arch, count in SIMPLE.items()},
    "randformer_s12": (SIMPLE["s12"], FROZEN["s12"], 1.888),
    "randformer_s24": (SIMPLE["s24"], FROZEN["s24"], 3.545),
    "randformer_s36": (SIMPLE["s36"], FROZEN["s36"], 5.201),
    "randformer_m36": (SIMPLE["m36"], FROZEN["m36"], 9.035),
    "randformer_m48": (SIMPLE["m48"], FROZEN["m48"], 11.902),
    "convformer_s18": (26_774_448, 0, 3.941),
    "convformer_s36": (40_012_152, 0, 7.640),
    "convformer_m36": (57_051_640, 0, 12.842),
    "convformer_b36": (99_882_616, 0, 22.629),
    "caformer_s18": (26_341_656, 0, 4.107),
    "caformer_s36": (39_297_102, 0, 7.972),
    "caformer_m36": (56_204_878, 0, 13.241),
    "caformer_b36": (98_753_614, 0, 23.160),
}
OF_TIMM = [name for name in SIZES if name.startswith(("poolformerv2", "convformer", "caformer"))]
SHALLOW = dict(depths=(1, 1, 1, 1))
TINY = dict(depths=(1, 1, 1, 1), dims=(8, 12, 16, 20))


def test_every_name_is_tried_here():
    families = (CAFormer, ConvFormer, IdentityFormer, PoolFormerV2, RandFormer)
    assert {name for family in families for name in list_backbones(f"{family.NAME}_*")} == set(SIZES)
    assert set(timm.list_models(["poolformer*", "convformer*", "caformer*"])) == {
        *OF_TIMM,
        *list_backbones("poolformer_*"),
    }


@pytest.mark.parametrize("name", SIZES)
def test_parameters(name):
    parameters, frozen, _ = SIZES[name]
    with torch.device("meta"):
        model = build_classifier(name)
    assert count(model) == parameters and all(p.requires_grad for p in model.parameters())
    assert sum(b.numel() for b in model.backbone.buffers()) == frozen


def multiply_adds(name):
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        build_classifier(name).eval()(torch.empty(1, 3, 224, 224))
    return counter.get_total_flops() / 2e9


@pytest.mark.parametrize("name", [name for name in SIZES if name.endswith(("s12", "s18"))])
def test_multiply_adds(name):
    assert multiply_adds(name) == pytest.approx(SIZES[name][2], rel=0.005)


@pytest.mark.parametrize("name", [name for name in SIZES if not name.endswith(("s12", "s18"))])
@pytest.mark.slow
def test_multiply_adds_of_deep_ones(name):
    assert multiply_adds(name) == pytest.approx(SIZES[name][2], rel=0.005)


def test_parameters_of_backbones_alone():
    with torch.device("meta"):
        for name, parameters in dict(convformer_s18=23_669_704, caformer_s18=23_236_912).items():
            backbone = build_backbone(name, out_norm=False)
            assert count(backbone) == parameters
            assert count(build_backbone(name)) == parameters + 2 * sum(backbone.arch.dims)


@pytest.fixture
def shallow():
    """A context in which timm makes its MetaFormers of one block a stage; it takes no depths."""
    make = timms._create_metaformer

    def shallower(variant, pretrained=False, **kwargs):
        return make(variant, pretrained, **{**kwargs, **SHALLOW})

    return lambda: mock.patch.object(timms, "_create_metaformer", shallower)


@pytest.mark.parametrize("name", ["poolformerv2_s12", "convformer_s18", "caformer_s18"])
def test_with_timms_arithmetic_all_is_timms(name, same_as_timm, shallow):
    both = dict(prepare=shallow, changes=SHALLOW)
    same_as_timm(name, (75, 93), **both)
    same_as_timm(name, (64, 32), gradients=True, **both)
    same_as_timm(name, (64, 96), dtype=torch.float32, tolerance=1e-5, **both)


@pytest.mark.parametrize("name", [*OF_TIMM, *list_backbones("poolformer_*")])
@pytest.mark.slow
def test_every_name_is_timms(name, same_as_timm, shallow):
    both = dict(prepare=shallow, changes=SHALLOW)
    same_as_timm(name, (75, 93), **both)
    same_as_timm(name, (64, 64), gradients=True, **both)


@pytest.mark.parametrize("name", [*OF_TIMM, *list_backbones("poolformer_*")])
@pytest.mark.slow
def test_every_name_in_all_its_depth_is_timms(name, same_as_timm):
    same_as_timm(name, (64, 64), batch=1)
    same_as_timm(name, (75, 93), dtype=torch.float32, tolerance=1e-5, batch=1)


@pytest.mark.parametrize("name", ["poolformerv2_s12", "convformer_s18", "caformer_s18"])
@pytest.mark.slow
def test_at_the_default_size_they_are_timms(name, same_as_timm):
    same_as_timm(name, (224, 224), batch=1)


def test_identityformer_is_timms_body_with_identity(same_as_timm):
    """timm has no IdentityFormer, but a body that takes any mixer."""

    def body(name, num_classes):
        assert name == "identityformer_s12"
        norm = timms.GroupNorm1NoBias
        return timms.MetaFormer(
            num_classes=num_classes, token_mixers=nn.Identity, norm_layers=norm, use_mlp_head=False, **SHALLOW
        )

    same_as_timm(
        "identityformer_s12",
        (75, 93),
        prepare=lambda: mock.patch.object(timm, "create_model", body),
        changes=SHALLOW,
    )


def layer_norm(x, norm, eps):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + eps).sqrt() * norm.weight


def group_norm(x, norm, eps):
    return torch.stack([(one - one.mean()) / (one.var(correction=0) + eps).sqrt() for one in x]) * norm.weight


def star_mlp(x, mlp):
    hidden = (x @ mlp.fc1.weight.T).clamp(min=0) ** 2 * mlp.act.scale + mlp.act.bias
    return hidden @ mlp.fc2.weight.T


@pytest.mark.parametrize("norm", ["LayerNorm", "GroupNorm1"])
@pytest.mark.parametrize("layer_scale", [None, 0.3])
@pytest.mark.parametrize("res_scale", [None, 0.7])
def test_a_block_is_its_definition(norm, layer_scale, res_scale):
    arch = dict(depths=(1, 1, 1, 1), dims=(6, 6, 6, 6), norm=norm, layer_scale_init=layer_scale)
    backbone = MetaFormer(arch, token_mixers=["SelfAttention"] * 4, res_scale_init=[res_scale] * 4)
    block = backbone.stages[0].blocks[0]
    initial = {name: p.clone() for name, p in block.named_parameters() if "scale" in name and "act" not in name}
    assert set(initial) == {f"layer_scale{i}.scale" for i in "12" if layer_scale} | {
        f"res_scale{i}.scale" for i in "12" if res_scale
    }
    for name, value in initial.items():
        assert (value == (layer_scale if name.startswith("layer") else res_scale)).all() and value.shape == (6,)
    block = randomised(block)
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64) * 2 + 1
    assert block.norm1.bias is None and block.norm2.bias is None
    define = layer_norm if norm == "LayerNorm" else group_norm

    def scaled(x, scale):
        return x if scale is None else x * scale.scale

    expected = scaled(x, block.res_scale1) + scaled(block.token_mixer(define(x, block.norm1, 1e-6)), block.layer_scale1)
    expected = scaled(expected, block.res_scale2) + scaled(
        star_mlp(define(expected, block.norm2, 1e-6), block.mlp), block.layer_scale2
    )
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # where the layer scale is multiplied otherwise
        torch.testing.assert_close(block(x), expected.detach(), rtol=1e-10, atol=1e-10)


def test_what_has_biases_and_scales():
    """No biases but the convolutions', learned scalars in each activation, residual scales in two stages of four."""
    for family, mixers in (
        (ConvFormer, [SepConv] * 4),
        (CAFormer, [SepConv, SepConv, SelfAttention, SelfAttention]),
        (RandFormer, [None, None, RandomMixing, RandomMixing]),
    ):
        backbone = family(TINY)
        biases = {name for name, _ in backbone.named_parameters() if name.endswith("bias")}
        assert {name for name in biases if not name.startswith("norms.") and ".act" not in name} == {
            "stem.conv.bias",
            *(f"stages.{stage}.downsample.conv.bias" for stage in (1, 2, 3)),
        }
        for stage, (module, mixer) in enumerate(zip(backbone.stages, mixers, strict=True)):
            block = module.blocks[0]
            assert isinstance(block, MetaFormerBlock) and isinstance(block.mlp, StarMlp)
            assert (block.res_scale1 is not None) == (block.res_scale2 is not None) == (stage >= 2)
            assert block.layer_scale1 is None and block.norm1.eps == block.norm2.eps == 1e-6
            assert type(block.norm1) is (GroupNorm1 if family is RandFormer else nn.LayerNorm)
            assert mixer is None or type(block.token_mixer) is mixer
        assert type(backbone.stem.norm) is nn.LayerNorm and backbone.stem.norm.eps == 1e-6


def test_the_norm_follows_the_stem_and_precedes_the_downsampling():
    backbone = randomised(ConvFormer(TINY, out_norm=False))
    x = torch.randn(1, 3, 40, 44, dtype=torch.float64)
    conv = nn.functional.conv2d(x, backbone.stem.conv.weight, backbone.stem.conv.bias, stride=4, padding=2)
    expected = layer_norm(conv.permute(0, 2, 3, 1), backbone.stem.norm, 1e-6)
    torch.testing.assert_close(backbone.stem(x), expected, rtol=1e-10, atol=1e-10)
    down, y = backbone.stages[2].downsample, torch.randn(1, 5, 7, 12, dtype=torch.float64)
    normed = layer_norm(y, down.norm, 1e-6).permute(0, 3, 1, 2)
    expected = nn.functional.conv2d(normed, down.conv.weight, down.conv.bias, stride=2, padding=1)
    torch.testing.assert_close(down(y), expected.permute(0, 2, 3, 1), rtol=1e-10, atol=1e-10)


def test_initial_values():
    torch.manual_seed(0)
    backbone = CAFormer(dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128)))
    for module in backbone.modules():
        if isinstance(module, (nn.Linear, nn.Conv2d)):
            assert 0.017 < module.weight.std() < 0.023 and module.weight.abs().max() < 2
            assert module.bias is None or not module.bias.any()
        elif isinstance(module, StarReLU):
            assert module.scale == 1 and module.bias == 0 and module.scale.shape == module.bias.shape == (1,)
        elif isinstance(module, Scale):
            assert (module.scale == 1).all()


def test_the_mlp_head_is_its_definition():
    head = randomised(MlpHead(4, 3, mlp_ratio=2.5))
    x = torch.randn(2, 4, 3, 5, dtype=torch.float64)
    mean = x.sum(dim=(2, 3)) / 15
    hidden = layer_norm(mean, head.norm, 1e-6) + head.norm.bias
    hidden = (hidden @ head.hidden.weight.T + head.hidden.bias).clamp(min=0) ** 2
    assert hidden.shape == (2, 10)
    hidden = layer_norm(hidden, head.hidden_norm, 1e-5) + head.hidden_norm.bias
    torch.testing.assert_close(head((x,)), hidden @ head.fc.weight.T + head.fc.bias, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["caformer_s18", "convformer_s18", "identityformer_s12"])
def test_departures_of_timm(name):
    """It rounds sizes down, and the epsilon of the hidden layer's norm is another."""
    paper, timms_way = (build_classifier(name, like=like, **TINY).double().eval() for like in ("paper", "timm"))
    timms_way.load_state_dict(paper.state_dict())
    odd = torch.randn(1, 3, 61, 66, dtype=torch.float64)
    with torch.no_grad():
        assert paper.backbone(odd)[0].shape[2:] == (2, 3)
        assert build_backbone(name, like="timm", **TINY)(odd.float())[0].shape[2:] == (15, 16)
    if name == "identityformer_s12":
        assert type(paper.head) is LinearHead and paper.head.norm.eps == timms_way.head.norm.eps == 1e-6
        assert not paper.head.norm_first and not timms_way.head.norm_first
    else:
        assert (paper.head.hidden_norm.eps, timms_way.head.hidden_norm.eps) == (1e-5, 1e-6)
        assert paper.head.norm.eps == timms_way.head.norm.eps == 1e-6


def test_output_norms():
    """A layer norm with a bias on every map, fresh; PoolFormer's are group norms."""
    with_norm = randomised(CAFormer(TINY, out_indices=(1, 3)))
    without = CAFormer(TINY, out_indices=(1, 3), out_norm=False).double()
    without.load_state_dict({k: v for k, v in with_norm.state_dict().items() if not k.startswith("norms.")})
    x = torch.randn(2, 3, 37, 41, dtype=torch.float64)
    for stage, one, other in zip("13", with_norm(x), without(x), strict=True):
        norm = with_norm.norms[stage]
        expected = layer_norm(other.permute(0, 2, 3, 1), norm, 1e-6) + norm.bias
        torch.testing.assert_close(one, expected.permute(0, 3, 1, 2), rtol=1e-10, atol=1e-10)
    assert type(PoolFormer(TINY, layer_scale_init=1.0).norms["0"]) is GroupNorm1


def test_the_bodys_mixers_and_what_else_is_chosen():
    torch.manual_seed(0)
    caformer, body = CAFormer(TINY), MetaFormer(TINY)
    assert caformer.state_dict().keys() == body.state_dict().keys()  # its default
    assert MetaFormer.DEFAULTS["token_mixers"] == CAFormer.DEFAULTS["token_mixers"]
    poolformer = PoolFormer(TINY, layer_scale_init=0.5)
    same = MetaFormer(
        TINY,
        token_mixers=["pooling"] * 4,
        norm="GroupNorm1",
        norm_eps=1e-5,
        norm_bias=True,
        downsample_norm=False,
        mlp="MLP",
        layer_scale_init=0.5,
        res_scale_init=(None,) * 4,
        out_norm=False,
    )
    same.load_state_dict({k: v for k, v in poolformer.state_dict().items() if not k.startswith("norms.")})
    bare = PoolFormer(TINY, layer_scale_init=0.5, out_norm=False)
    bare.load_state_dict(same.state_dict())
    x = torch.randn(1, 3, 45, 50)
    assert all(torch.equal(one, other) for one, other in zip(same(x), bare(x), strict=True))
    for argument, message in (
        (dict(norm="BatchNorm"), "MetaFormer: no norm 'BatchNorm'; there are GroupNorm1, LayerNorm"),
        (dict(mlp="Star"), "MetaFormer: no mlp 'Star'; there are MLP, StarMlp"),
        (dict(res_scale_init=(1.0, 1.0)), r"res_scale_init \(1.0, 1.0\) must have 4 entries, one a stage"),
    ):
        with pytest.raises(ValueError, match=message):
            MetaFormer(TINY, **argument)


def test_randformer_takes_one_size():
    backbone = RandFormer(TINY, img_size=(96, 61)).eval()
    sizes = [len(stage.blocks[0].token_mixer.random_matrix) for stage in backbone.stages[2:]]
    assert sizes == [6 * 4, 3 * 2]
    assert [x.shape[2:] for x in backbone(torch.randn(1, 3, 96, 61))] == [(24, 16), (12, 8), (6, 4), (3, 2)]
    assert len(backbone(torch.randn(1, 3, 94, 64))) == 4  # rounded up, it has the same maps
    with pytest.raises(ValueError, match="for 24 tokens, but this map has 4 x 4 = 16: give pictures of the img_size"):
        backbone(torch.randn(1, 3, 64, 64))
    with torch.device("meta"):
        default = build_backbone("randformer_s12")
        assert [x.shape[2] for x in default(torch.empty(1, 3, 224, 224))] == [56, 28, 14, 7]
        with pytest.raises(ValueError, match="for 196 tokens, but this map has 16 x 16 = 256"):
            default(torch.empty(1, 3, 256, 256))


def test_random_matrices_are_never_trained():
    torch.manual_seed(0)
    backbone = RandFormer(TINY, img_size=32)
    matrix = backbone.stages[2].blocks[0].token_mixer.random_matrix
    assert not matrix.requires_grad and "stages.2.blocks.0.token_mixer.random_matrix" in backbone.state_dict()
    assert matrix.data_ptr() not in {p.data_ptr() for p in backbone.parameters()}
