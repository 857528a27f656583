"""MobileNetV2 with ECA and ELA against definitions, published sizes, torchvision's and timm's."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models import mobilenet_v2

from bestiary.backbones import MobileNetV2
from bestiary.checkpoints import build_classifier, convert_state_dict

COUNTS = {  # classifiers of 1,000 classes; ELA's by its formula on the hidden widths
    "mobilenetv2_100": 3_504_872,
    "eca_mobilenetv2": 3_504_903,
    "ela_t_mobilenetv2": 3_554_824,
    "ela_b_mobilenetv2": 3_569_096,
    "ela_s_mobilenetv2": 3_804_584,
    "ela_l_mobilenetv2": 3_918_760,
}
OUTPUT_COUNTS = dict(zip("tbsl", (3_515_400, 3_518_408, 3_568_040, 3_592_104), strict=True))  # on the output widths
SMALL = dict(depths=(1, 2, 2, 1), dims=(8, 12, 16, 20), stem_dims=(8, 8), expand_ratio=2)


def count(name, **kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in build_classifier(name, **kwargs).parameters())


def test_parameter_counts():
    assert {name: count(name) for name in MobileNetV2.ARCHS} == COUNTS
    assert {size: count(f"ela_{size}_mobilenetv2", attn_place="output") for size in "tbsl"} == OUTPUT_COUNTS


def test_multiply_adds():
    counts = []
    with torch.device("meta"):
        models, x = (build_classifier("mobilenetv2_100"), mobilenet_v2()), torch.empty(1, 3, 224, 224)
    for model in models:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(x)
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] > 2 * 300e6


def test_eca_has_the_released_kernels():
    with torch.device("meta"):
        backbone = MobileNetV2("eca_mobilenetv2")
    blocks = [backbone.stem.block, *(block for stage in backbone.stages for block in stage.blocks)]
    widths = [block.convs[-1].conv.out_channels for block in blocks]
    assert widths == [16, 24, 24, 32, 32, 32, 64, 64, 64, 64, 96, 96, 96, 160, 160, 160, 320]
    assert [block.attn.conv.kernel_size[0] for block in blocks] == [1 if width < 96 else 3 for width in widths]


def test_groups_of_elas_norm():
    with torch.device("meta"):
        backbone = MobileNetV2("ela_t_mobilenetv2")
    groups = {part.num_channels: part.num_groups for part in backbone.modules() if isinstance(part, nn.GroupNorm)}
    assert groups == {32: 32, 96: 32, 144: 24, 192: 32, 384: 32, 576: 32, 960: 32}


@pytest.mark.parametrize("size", [(64, 64), (37, 53)])
def test_all_is_timms(same_as_timm, size):
    same_as_timm("mobilenetv2_100", size)


def test_gradients_are_timms(same_as_timm):
    same_as_timm("mobilenetv2_100", (64, 96), gradients=True)


def test_all_is_timms_in_float32(same_as_timm):
    same_as_timm("mobilenetv2_100", (65, 96), dtype=torch.float32, tolerance=1e-5)


def test_all_is_torchvisions():
    torch.manual_seed(0)
    theirs = mobilenet_v2(num_classes=7).double().eval()
    for part in theirs.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_var.uniform_(0.5, 1.5)
            part.running_mean.normal_()
    ours = build_classifier("mobilenetv2_100", 7).double().eval()
    ours.load_state_dict(convert_state_dict(theirs.state_dict(), "mobilenetv2_100", "official"))
    x = torch.randn(2, 3, 45, 71, dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-10, atol=1e-10)
        fused = ours.backbone.fuse()
        assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
        for one, other in zip(fused(x), ours.backbone(x), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("place", ["output", "hidden"])
@pytest.mark.parametrize("expand_ratio", [1, 3])
def test_attention_stands_where_it_is_told(place, expand_ratio):
    torch.manual_seed(0)
    backbone = MobileNetV2(SMALL, attn="ela_b", attn_place=place, expand_ratio=expand_ratio).double().eval()
    block = backbone.stages[1].blocks[1]  # 12 channels in and out
    wide = 12 * expand_ratio
    assert len(block.convs) == (2 if expand_ratio == 1 else 3) and block.is_residual
    assert block.attn.conv.in_channels == (wide if place == "hidden" else 12)
    x = torch.randn(2, 12, 5, 7, dtype=torch.float64)
    branch = x
    for layer in block.convs[:-1]:
        branch = layer.bn(layer.conv(branch)).clamp(0, 6)
    last = block.convs[-1]
    scale = block.attn if place == "hidden" else nn.Identity()
    branch = last.bn(last.conv(scale(branch)))
    expected = x + (block.attn(branch) if place == "output" else branch)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    assert not backbone.stages[1].blocks[0].is_residual  # another size, other channels: nothing is added


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attn="ecca"), r"MobileNetV2: no attn 'ecca'; there are eca, .*did you mean 'eca'\?"),
        (dict(attn_place="input"), "MobileNetV2: no attn_place 'input'; there are output, hidden"),
        (dict(widths={1: (8,)}), r"widths \(8,\) of stage 1 must be 2, one a block, and end with the stage's 12"),
        (dict(attn="eca", eca_kernels={8: 3, 12: 3}), r"eca_kernels \{8: 3, 12: 3\} lack the widths \[16, 20\]"),
        (dict(eca_kernels={8: 3}), "eca_kernels are of attn='eca', not of None; set them to None"),
    ],
    ids=str,
)
def test_messages(changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        MobileNetV2(SMALL, **changes)
