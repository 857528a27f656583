"""NAT, DiNAT, DiNAT_s and the isotropic networks against their definitions and published sizes."""

import math

import pytest
import torch
import torch.nn.functional as F
from networks import randomised
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import NAT, DiNAT, DiNATs, IsotropicDiNAT, ViTRPB, build_backbone
from bestiary.backbones.layers import MetaFormerBlock, Mlp
from bestiary.backbones.mixers import Neighborhood, RelativeAttention, build_mixer
from bestiary.backbones.nat import OverlappingStem, PatchMerging, PatchStem
from bestiary.checkpoints import build_classifier
from bestiary.heads import make_classifier
from bestiary.kernels import use_backend

# Parameters of the classifier of 1,000 classes, counted from the authors' code; multiply-adds (G) as they publish them.
SIZES = {
    "nat_mini": (19_984_174, 2.7),
    "nat_tiny": (27_901_582, 4.3),
    "nat_small": (50_743_297, 7.8),
    "nat_base": (89_769_652, 13.7),
    "dinat_mini": (19_984_174, 2.7),
    "dinat_tiny": (27_901_582, 4.3),
    "dinat_small": (50_719_681, 7.8),
    "dinat_base": (89_769_652, 13.7),
    "dinat_large": (200_943_514, 30.6),
    "dinat_large_384": (200_943_514, 89.7),
    "dinat_large_384_k11": (201_144_250, 92.4),
    "dinat_s_tiny": (28_288_354, 4.5),
    "dinat_s_small": (49_606_258, 8.7),
    "dinat_s_base": (87_768_224, 15.4),
    "dinat_s_large": (196_532_476, 34.5),
    "dinat_s_large_384": (196_532_476, 101.5),
    "nat_isotropic_small": (21_999_736, 4.3),
    "nat_isotropic_base": (86_465_800, 16.9),
    "dinat_isotropic_small": (21_999_736, 4.3),
    "dinat_isotropic_base": (86_465_800, 16.9),
    "vitrpb_small": (22_080_376, None),
    "vitrpb_base": (86_627_080, None),
}


@pytest.mark.parametrize("name", SIZES)
def test_parameter_counts(name):
    with torch.device("meta"):
        classifier = make_classifier(name)
    assert sum(p.numel() for p in classifier.parameters()) == SIZES[name][0]


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name.endswith(("mini", "s_tiny", "isotropic_small")) else pytest.mark.slow)
        for name, (_, macs) in SIZES.items()
        if macs
    ],
)
def test_multiply_adds_are_the_published(name):
    """The definition of the attention is matrix products, so that they are counted: 2 * H * W * C * k^2 a layer."""
    side = 384 if "_384" in name else 224
    with torch.device("meta"), use_backend("reference"):
        model = make_classifier(name).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, side, side))
    assert counter.get_total_flops() / 2e9 == pytest.approx(SIZES[name][1], rel=0.005, abs=0.05)  # rounded to a digit


def attend_by_loops(x, layer):
    """Each query with its own keys, one by one; x (H, W, C)."""
    height, width, dim = x.shape
    heads, kernel, dilation = layer.num_heads, layer.window.kernel_size[0], layer.window.dilation[0]
    width_of_head = dim // heads

    def window(at, length):
        """Positions of the keys, and their places in the table."""
        group, place = at % dilation, at // dilation
        members = math.ceil((length - group) / dilation)
        start = min(max(place - kernel // 2, 0), members - kernel)
        return [(group + dilation * (start + t), start + t - place + kernel - 1) for t in range(kernel)]

    projected = x @ layer.qkv.weight.T + layer.qkv.bias
    out = torch.zeros_like(x)
    for row in range(height):
        for column in range(width):
            for head in range(heads):
                part = slice(head * width_of_head, (head + 1) * width_of_head)
                query = projected[row, column, :dim][part] * width_of_head**-0.5
                scores, values = [], []
                for key_row, up in window(row, height):
                    for key_column, along in window(column, width):
                        key = projected[key_row, key_column, dim : 2 * dim][part]
                        scores.append(query @ key + layer.rpb[head, up, along])
                        values.append(projected[key_row, key_column, 2 * dim :][part])
                weights = torch.stack(scores).softmax(0)
                out[row, column, part] = weights @ torch.stack(values)
    return out @ layer.proj.weight.T + layer.proj.bias


@pytest.mark.parametrize(("size", "kernel", "dilation"), [((7, 9), 3, 2), ((5, 5), 5, 1), ((10, 7), 3, 1)])
def test_neighborhood_is_its_definition(size, kernel, dilation):
    layer = randomised(Neighborhood(6, num_heads=2, kernel_size=kernel, dilation=dilation))
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    expected = torch.stack([attend_by_loops(picture, layer) for picture in x])
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def test_small_maps_are_padded_before_the_projection_unmasked():
    """As NATTEN did while the released detectors were trained: the padding bears the bias of qkv, and takes part."""
    layer = randomised(Neighborhood(6, num_heads=2, kernel_size=3, dilation=3))
    x = torch.randn(1, 5, 10, 6, dtype=torch.float64)
    padded = F.pad(x, (0, 0, 0, 0, 0, 4))
    torch.testing.assert_close(layer(x)[0], attend_by_loops(padded[0], layer)[:5], rtol=1e-10, atol=1e-10)
    strict = Neighborhood(6, num_heads=2, kernel_size=3, dilation=3, small_maps="error")
    with pytest.raises(ValueError, match="kernel_size"):
        strict(x.float())


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.weight + layer.bias


def test_block_is_its_definition():
    norms = nn.LayerNorm(6), nn.LayerNorm(6)
    block = randomised(MetaFormerBlock(6, Neighborhood(6, num_heads=2, kernel_size=3), Mlp(6, 15), norms, 0.5))
    x = torch.randn(1, 4, 5, 6, dtype=torch.float64)
    expected = x + block.layer_scale1.scale * attend_by_loops(norm(x, block.norm1)[0], block.token_mixer)
    hidden = norm(expected, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))
    expected = expected + block.layer_scale2.scale * (hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    assert block.mlp.fc1.out_features == 15


def test_stems_are_their_definitions():
    x = torch.randn(2, 3, 13, 22, dtype=torch.float64)
    stem = randomised(OverlappingStem(3, 8))
    expected = F.conv2d(F.conv2d(x, stem.conv1.weight, stem.conv1.bias, 2, 1), stem.conv2.weight, stem.conv2.bias, 2, 1)
    torch.testing.assert_close(stem(x), norm(expected.permute(0, 2, 3, 1), stem.norm), rtol=1e-10, atol=1e-10)
    stem = randomised(PatchStem(3, 8, 4))
    expected = F.conv2d(F.pad(x, (0, 2, 0, 3)), stem.conv.weight, stem.conv.bias, 4)
    torch.testing.assert_close(stem(x), norm(expected.permute(0, 2, 3, 1), stem.norm), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(4, 6), (3, 5), (1, 2)])
def test_patch_merging_is_swins(size):
    layer = randomised(PatchMerging(3, 7))
    x = torch.randn(2, *size, 3, dtype=torch.float64)
    padded = F.pad(x, (0, 0, 0, size[1] % 2, 0, size[0] % 2))
    phases = [padded[:, row::2, column::2] for row, column in ((0, 0), (1, 0), (0, 1), (1, 1))]
    expected = norm(torch.cat(phases, -1), layer.norm) @ layer.reduction.weight.T
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("size", [(4, 4), (3, 5), (1, 1)])
def test_relative_attention_is_its_definition(size):
    layer = randomised(RelativeAttention(6, num_heads=2, table_size=4))
    x = torch.randn(2, *size, 6, dtype=torch.float64)
    height, width = size
    table = layer.rpb
    if size != (4, 4):  # other maps take it resampled
        shape = (2 * height - 1, 2 * width - 1)
        table = F.interpolate(table[None], shape, mode="bicubic", align_corners=True)[0]
    places = [(row, column) for row in range(height) for column in range(width)]
    tokens = x.flatten(1, 2)
    q, k, v = (tokens @ layer.qkv.weight.T + layer.qkv.bias).chunk(3, -1)
    out = torch.zeros_like(tokens)
    for head in range(2):
        part = slice(3 * head, 3 * head + 3)
        for at, (row, column) in enumerate(places):
            bias = torch.stack([table[head, r - row + height - 1, c - column + width - 1] for r, c in places])
            weights = (torch.einsum("bc,blc->bl", q[:, at, part], k[..., part]) * 3**-0.5 + bias).softmax(-1)
            out[:, at, part] = torch.einsum("bl,blc->bc", weights, v[..., part])
    expected = (out @ layer.proj.weight.T + layer.proj.bias).view_as(x)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def dilations_of(backbone):
    return [[block.token_mixer.window.dilation[0] for block in stage.blocks] for stage in backbone.stages]


def test_dilations_are_the_authors():
    long = [1, 2, 1, 3, 1, 4, 1, 5, 1, 2, 1, 3, 1, 4, 1, 5, 1, 5]
    for name, preset, expected in (
        ("nat_tiny", None, [[1] * 3, [1] * 4, [1] * 18, [1] * 5]),
        ("dinat_mini", None, [[1, 8, 1], [1, 4, 1, 4], [1, 2] * 3, [1] * 5]),
        ("dinat_tiny", None, [[1, 8, 1], [1, 4, 1, 4], [1, 2] * 9, [1] * 5]),
        ("dinat_large_384", None, [[1, 13, 1], [1, 6, 1, 6], [1, 3] * 9, [1] * 5]),
        ("dinat_large_384_k11", None, [[1, 8, 1], [1, 4, 1, 4], [1, 2] * 9, [1] * 5]),
        ("dinat_mini", "detection", [[1, 28, 1], [1, 7, 1, 14], [1, 3, 1, 5, 1, 7], [1, 3, 1, 3, 1]]),
        ("dinat_tiny", "detection", [[1, 28, 1], [1, 7, 1, 14], [1, 3, 1, 5, 1, 7] * 3, [1, 3, 1, 3, 1]]),
        ("dinat_base", "segmentation", [[1, 16, 1], [1, 4, 1, 8], [1, 2, 1, 3, 1, 4] * 3, [1, 2, 1, 2, 1]]),
        ("dinat_large", "segmentation_640", [[1, 20, 1], [1, 5, 1, 10], long, [1, 2, 1, 2, 1]]),
        ("dinat_s_tiny", None, [[1, 8], [1, 4], [1, 2] * 3, [1, 1]]),
        ("dinat_s_large_384", None, [[1, 13], [1, 6], [1, 3] * 9, [1, 1]]),
        ("dinat_s_small", "detection", [[1, 28], [1, 14], [1, 3, 1, 5, 1, 7] * 3, [1, 3]]),
        ("dinat_s_tiny", "segmentation", [[1, 16], [1, 8], [1, 2, 1, 3, 1, 4], [1, 2]]),
        ("dinat_s_large", "segmentation_640", [[1, 20], [1, 10], long, [1, 2]]),
        ("nat_isotropic_small", None, [[1] * 12]),
        ("dinat_isotropic_small", None, [[1, 2] * 6]),
    ):
        with torch.device("meta"):
            backbone = build_backbone(name, **({"dilations": preset} if preset else {}))
        assert dilations_of(backbone) == expected, (name, preset)


def test_dilations_change_with_the_weights_as_they_are():
    arch = dict(depths=(2, 2, 2, 1), dims=(8, 12, 16, 20), num_heads=(1, 2, 4, 2), mlp_ratio=2.0, kernel_size=3)
    one, other = DiNAT(arch), DiNAT(arch, dilations=[[2], [1, 3], [1, 1], [1]])
    assert dilations_of(other) == [[2, 2], [1, 3], [1, 1], [1]]
    other.load_state_dict(one.state_dict())
    x = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(one.eval()(x)[0], other.eval()(x)[0])


def test_initial_values():
    torch.manual_seed(0)
    backbone = NAT("mini")
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            assert 0.019 < module.weight.std() < 0.021 and not module.bias.any()
        if isinstance(module, Neighborhood):
            assert 0.017 < module.rpb.std() < 0.023
    for family, arch, expected in ((NAT, "small", 1e-5), (DiNAT, "base", 1e-5), (DiNAT, "small", None)):
        with torch.device("meta"):
            backbone = family(arch)
        assert backbone.arch.layer_scale_init == expected
        scales = [name for name, _ in backbone.named_parameters() if "layer_scale" in name]
        assert len(scales) == (2 * sum(backbone.arch.depths) if expected else 0)


def test_any_mixer_in_the_body():
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 32), num_heads=(1, 2, 2, 4), mlp_ratio=2.0)
    mixers = ["Pooling", "ChannelAttention", dict(type="Neighborhood", kernel_size=5, num_heads=8), "RelativeAttention"]
    backbone = NAT(arch, token_mixers=mixers)
    assert [type(stage.blocks[0].token_mixer).__name__ for stage in backbone.stages] == [
        "Pooling", "ChannelAttention", "Neighborhood", "RelativeAttention",
    ]  # fmt: skip
    third = backbone.stages[2].blocks[0].token_mixer
    assert (third.num_heads, third.window.kernel_size) == (8, (5, 5))
    maps = backbone(torch.randn(1, 3, 70, 61))
    assert [x.shape[1] for x in maps] == [8, 16, 16, 32]


def test_backends_agree_through_a_network():
    torch.manual_seed(0)
    arch = dict(depths=(1, 2, 2, 1), dims=(32, 64, 64, 64), num_heads=(1, 2, 2, 2), mlp_ratio=2.0)
    backbone, x = DiNAT(arch).eval(), torch.randn(2, 3, 100, 76)
    with torch.no_grad():
        fast = backbone(x)
        with use_backend("reference"):
            slow = backbone(x)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


def test_logits_are_norm_then_mean_then_linear():
    torch.manual_seed(0)
    arch = dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 16), num_heads=(1, 1, 1, 2), mlp_ratio=2.0, kernel_size=3)
    model = build_classifier("nat_mini", num_classes=5, **arch).double().eval()
    x = torch.randn(2, 3, 60, 44, dtype=torch.float64)
    feats = model.backbone(x)[0].permute(0, 2, 3, 1)
    expected = norm(feats, model.head.norm).mean((1, 2)) @ model.head.fc.weight.T + model.head.fc.bias
    torch.testing.assert_close(model(x), expected)


def test_messages():
    for build, message in (
        (
            lambda: DiNAT("mini", dilations="coco"),
            "DiNAT: no dilations 'coco'; there are none, classif.*list a st",
        ),
        (lambda: NAT("mini", dilations=[[1], [2]]), r"NAT: dilations \[\[1\], \[2\]\] must be 4 lists of numbers"),
        (lambda: NAT("mini", kernel_size=6), "Neighborhood: kernel_size 6 must be odd"),
        (lambda: NAT("mini", num_heads=(3, 4, 8, 16)), "embed_dim 64 must be a multiple of num_heads, got 3"),
        (lambda: ViTRPB("small", num_heads=(5,)), "RelativeAttention: dim 384 must be a multiple of num_heads, got 5"),
        (lambda: IsotropicDiNAT("small", dilations="detection"), "no dilations 'detection'; there are none, classif"),
        (lambda: DiNATs("smal"), "did you mean 'small'"),
        (lambda: build_mixer("Neighbourhood", 8), "did you mean 'Neighborhood'"),
    ):
        with pytest.raises(ValueError, match=message), torch.device("meta"):
            build()
    with pytest.raises(ValueError, match="kernel_size"):
        NAT("mini", small_maps="error")(torch.randn(1, 3, 64, 64))
