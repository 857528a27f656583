"""Layers of every backbone's parameters, and those that do not decay."""

import pytest
import torch
from small_families import by_family, picture, tiny
from torch import nn

from bestiary.backbones import TimmBackbone
from bestiary.backbones.base import undecayed
from bestiary.backbones.metaformer import PoolFormer
from bestiary.backbones.mhs_vm import MHSVMEncoder


def layers_by_running(backbone):
    """id of a parameter -> layer: the stem is 0, the n-th block that runs n, with the layer that makes its map."""
    order = []
    blocks = [block for stage in backbone.stages for block in stage.blocks]
    handles = [block.register_forward_pre_hook(lambda module, _: order.append(module)) for block in blocks]
    with torch.no_grad():
        backbone.eval()(picture(1, 3, 45, 71))
    for handle in handles:
        handle.remove()
    assert len(order) == len(blocks)
    expected = {id(p): 0 for p in backbone.stem.parameters()}
    expected |= {id(p): number for number, block in enumerate(order, 1) for p in block.parameters()}
    for stage in backbone.stages:
        expected |= {id(p): order.index(stage.blocks[0]) + 1 for p in stage.downsample.parameters()}
    return expected | {id(p): len(order) for p in backbone.norms.parameters()}, len(order) + 1


@by_family
@pytest.mark.parametrize("out_indices", [None, (0,)])
def test_every_parameter_has_the_layer_in_which_it_runs(family, out_indices):
    backbone = tiny(family, out_indices=out_indices)
    expected, count = layers_by_running(backbone)
    found = {id(p): backbone.layer_of(name) for name, p in backbone.named_parameters()}
    assert found == expected and backbone.num_layers == count
    assert set(found.values()) == set(range(count))


def test_a_backbone_with_a_forward_of_its_own():
    arch = dict(depths=(1, 2, 1, 1), dims=(8, 12, 16, 20))
    backbone = MHSVMEncoder(arch, d_state=2)
    expected, count = layers_by_running(backbone)
    assert {id(p): backbone.layer_of(name) for name, p in backbone.named_parameters()} == expected
    assert backbone.num_layers == count == 6


def test_other_names_have_no_layer():
    backbone = PoolFormer(dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)))
    for name in ("head.weight", "stages.0", ""):
        with pytest.raises(ValueError, match="is no parameter of stem, stages or norms"):
            backbone.layer_of(name)


@by_family
def test_matrices_decay_and_nothing_else(family):
    """Weights of linear layers and convolutions do, and a scan's two projections; a gate's filter does not."""
    backbone = tiny(family)
    matrices = {
        f"{prefix}.weight"
        for prefix, module in backbone.named_modules()
        if isinstance(module, nn.Linear | nn.Conv2d | nn.Conv1d) and not prefix.endswith("join.attn.conv")
    }
    matrices |= {name for name, _ in backbone.named_parameters() if name.endswith(("scan.x_proj", "scan.dt_proj"))}
    assert {name for name, _ in backbone.named_parameters()} - backbone.no_weight_decay() == matrices


@pytest.mark.parametrize(
    ("mixer", "still"), [("Neighborhood", {"rpb"}), ("RelativeAttention", {"rpb"}), ("SS2D", {"dt_bias", "A_log", "D"})]
)
def test_what_a_mixer_brings_is_known_in_any_backbone(mixer, still):
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    backbone = PoolFormer(arch, token_mixers=(mixer, "Pooling", "Pooling", "Pooling"))
    wide = {name for name, p in backbone.named_parameters() if p.ndim > 1}
    assert {name.rsplit(".", 1)[1] for name in wide & backbone.no_weight_decay()} == still


def test_names_that_are_not_there_are_none():
    class Odd(nn.Linear):
        NO_WEIGHT_DECAY = ("weight", "nothing")

    assert undecayed(nn.Sequential(Odd(2, 2), nn.Linear(2, 2))) == {"0.weight", "0.bias", "1.bias"}


@pytest.mark.parametrize(
    ("name", "layers", "still"),
    [
        ("resnet18", 9, set()),
        pytest.param("convnext_atto", 13, set(), marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", 17, set(), marks=pytest.mark.slow),
        pytest.param("vit_tiny_patch16_224", 13, {"model.model.cls_token", "model.model.pos_embed"}),
        pytest.param("swin_tiny_patch4_window7_224", 13, {"relative_position_bias_table"}, marks=pytest.mark.slow),
        pytest.param("hrnet_w18_small", 6, set(), marks=pytest.mark.slow),
    ],
)
def test_timms_layers(name, layers, still):
    """As timm groups them, from stem to head; a ViT's stem and twelve blocks, a ResNet-18's stem and eight."""
    backbone = TimmBackbone(name)
    found = [backbone.layer_of(parameter) for parameter, _ in backbone.named_parameters()]
    assert found == sorted(found) and set(found) == set(range(layers)) and backbone.num_layers == layers
    wide = {parameter for parameter, p in backbone.named_parameters() if p.ndim > 1}
    names = wide & backbone.no_weight_decay()
    assert all(any(name.endswith(one) for one in still) for name in names) and bool(names) is bool(still)
    with pytest.raises(ValueError, match="has no parameter 'head.weight'"):
        backbone.layer_of("head.weight")


def test_a_model_that_timm_does_not_group():
    with pytest.raises(ValueError, match="timm does not group the parameters of poolformer_s12"):
        TimmBackbone("poolformer_s12").layer_of("model.stem.conv.weight")
