"""SHViT against its definition, its published sizes and timm's; the fold of its norms for inference."""

import copy
import math

import pytest
import torch
from networks import count, randomised
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import SHViT, build_backbone
from bestiary.backbones.layers import ConvBN
from bestiary.backbones.mixers import Pooling, SingleHeadAttention
from bestiary.backbones.shvit import DepthwiseResidual, PatchMerging, SHViTBlock
from bestiary.checkpoints import build_classifier

SMALL = dict(depths=(1, 2, 2), dims=(16, 20, 24), partial_dims=(4, 5, 7))
COUNTS = {"s1": 6_330_808, "s2": 11_483_072, "s3": 14_245_273, "s4": 16_588_484}  # timm's classifiers, counted
FUSED = {"s1": 6.3, "s2": 11.4, "s3": 14.2, "s4": 16.5}  # the paper's, in millions, after fusion
MACS = {"s1": (224, 0.241), "s2": (224, 0.365), "s3": (224, 0.601), "s4": (256, 0.986)}  # default size, timm's in 10^9


def picture(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("arch", SHViT.ARCHS)
def test_parameter_counts(arch):
    with torch.device("meta"):
        assert count(build_classifier(f"shvit_{arch}")) == COUNTS[arch]


@pytest.mark.parametrize("arch", SHViT.ARCHS)
def test_fused_parameter_counts(arch):
    classifier = build_classifier(f"shvit_{arch}").eval()
    millions = (count(classifier.backbone.fuse()) + count(classifier.head.fc)) / 1e6
    assert abs(millions - FUSED[arch]) < 0.1 and millions < COUNTS[arch] / 1e6


@pytest.mark.parametrize("arch", SHViT.ARCHS)
def test_multiply_adds(arch):
    size, expected = MACS[arch]
    with torch.device("meta"):
        model, x = build_classifier(f"shvit_{arch}").eval(), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("arch", SHViT.ARCHS)
def test_all_is_timms(same_as_timm, arch):
    same_as_timm(f"shvit_{arch}", (64, 96))
    same_as_timm(f"shvit_{arch}", (83, 117), batch=1)


def test_all_is_timms_in_float32(same_as_timm):
    same_as_timm("shvit_s1", (96, 128), dtype=torch.float32, tolerance=1e-5)


def test_gradients_are_timms(same_as_timm):
    same_as_timm("shvit_s1", (96, 128), gradients=True)


@pytest.mark.slow
@pytest.mark.parametrize("arch", SHViT.ARCHS)
def test_all_is_timms_at_the_default_size(same_as_timm, arch):
    side = MACS[arch][0]
    same_as_timm(f"shvit_{arch}", (side, side))
    same_as_timm(f"shvit_{arch}", (side, side), dtype=torch.float32, tolerance=1e-5)
    same_as_timm(f"shvit_{arch}", (side, side), gradients=True)


def conv_by_loops(x, weight, stride, padding, groups):
    """x (B, C, H, W), weight (D, C / groups, k, k): sums over the kernel's places and channels."""
    batch, _, height, width = x.shape
    out_channels, share, side, _ = weight.shape
    rows, columns = ((n + 2 * padding - side) // stride + 1 for n in (height, width))
    out = torch.zeros(batch, out_channels, rows, columns, dtype=x.dtype)
    for d in range(out_channels):
        first = d // (out_channels // groups) * share
        for i in range(rows):
            for j in range(columns):
                for u in range(side):
                    for v in range(side):
                        r, c = i * stride + u - padding, j * stride + v - padding
                        if 0 <= r < height and 0 <= c < width:
                            out[:, d, i, j] += x[:, first : first + share, r, c] @ weight[d, :, u, v]
    return out


def norm_by_definition(x, bn, training):
    """(B, C, H, W), statistics of the batch in training, else the running ones."""
    if training:
        n = x.numel() / x.shape[1]
        mean = x.sum(dim=(0, 2, 3)) / n
        variance = ((x - mean[:, None, None]) ** 2).sum(dim=(0, 2, 3)) / n
    else:
        mean, variance = bn.running_mean.clone(), bn.running_var.clone()
    scale = bn.weight / (variance + 1e-5).sqrt()
    return (x - mean[:, None, None]) * scale[:, None, None] + bn.bias[:, None, None]


def conv_bn_by_definition(x, layer, training=False):
    conv = layer.conv
    x = conv_by_loops(x, conv.weight, conv.stride[0], conv.padding[0], conv.groups)
    return norm_by_definition(x, layer.bn, training)


def attention_by_loops(x, mixer, training=False):
    """(B, C, H, W) -> the same."""
    batch, _, height, width = x.shape
    p = mixer.partial_dim
    part, rest = x[:, :p], x[:, p:]
    normed = torch.empty_like(part)
    for b in range(batch):  # one mean and variance a picture
        mean = part[b].sum() / part[b].numel()
        variance = ((part[b] - mean) ** 2).sum() / part[b].numel()
        normed[b] = (part[b] - mean) / (variance + 1e-5).sqrt()
    normed = normed * mixer.norm.weight[:, None, None] + mixer.norm.bias[:, None, None]
    qkv = conv_bn_by_definition(normed, mixer.qkv, training).flatten(2)
    q, k, v = qkv[:, : mixer.qk_dim], qkv[:, mixer.qk_dim : 2 * mixer.qk_dim], qkv[:, 2 * mixer.qk_dim :]
    out = torch.zeros(batch, p, height * width, dtype=x.dtype)
    for b in range(batch):
        for i in range(height * width):
            scores = torch.stack([q[b, :, i] @ k[b, :, j] for j in range(height * width)]) / mixer.qk_dim**0.5
            shares = scores.exp() / scores.exp().sum()
            for j in range(height * width):
                out[b, :, i] += shares[j] * v[b, :, j]
    together = torch.cat([out.reshape(batch, p, height, width), rest], dim=1)
    return conv_bn_by_definition(together.clamp_min(0), mixer.proj, training)


def mlp_by_definition(x, mlp, training=False):
    return conv_bn_by_definition(conv_bn_by_definition(x, mlp.fc1, training).clamp_min(0), mlp.fc2, training)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("kernel", "stride", "groups"), [(1, 1, 1), (3, 2, 1), (3, 1, 6), (3, 2, 6)])
def test_conv_bn_is_its_definition(training, kernel, stride, groups):
    layer = randomised(ConvBN(6, 12, kernel, stride, kernel // 2, groups)).train(training)
    x = picture(2, 6, 5, 4)
    expected = conv_bn_by_definition(x, layer, training)
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    if training:
        assert layer.bn.num_batches_tracked == 1
    else:
        torch.testing.assert_close(layer.fuse()(x), expected, rtol=1e-10, atol=1e-10)


def test_gradients_through_fixed_norms():
    """In evaluation mode the norm may be folded on the way; all its parameters still learn."""
    layer = randomised(ConvBN(3, 4, 3, 2, 1)).eval()
    x = picture(2, 3, 5, 4).requires_grad_()
    names, values = zip(*layer.named_parameters(), strict=True)
    weight = picture(2, 4, 3, 2, seed=3)
    got = torch.autograd.grad((layer(x) * weight).sum(), (x, *values))
    expected = torch.autograd.grad((conv_bn_by_definition(x, layer) * weight).sum(), (x, *values))
    for name, one, other in zip(("x", *names), got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", [(3, 2), (1, 4)])
def test_attention_is_its_definition(size, training):
    mixer = randomised(SingleHeadAttention(9, partial_dim=4, qk_dim=3)).train(training)
    x = picture(2, 9, *size)
    expected = attention_by_loops(x, mixer, training)
    torch.testing.assert_close(mixer(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), expected, rtol=1e-9, atol=1e-9)


def test_attention_takes_a_share_of_the_channels():
    assert SingleHeadAttention(224).partial_dim == 48 and SingleHeadAttention(2).partial_dim == 1
    assert SingleHeadAttention(5, partial_dim=5)(torch.randn(2, 3, 4, 5)).shape == (2, 3, 4, 5)
    for partial_dim in (0, 6):
        with pytest.raises(ValueError, match=f"SingleHeadAttention: partial_dim {partial_dim} is not in 1..5, its dim"):
            SingleHeadAttention(5, partial_dim=partial_dim)


@pytest.mark.parametrize("attention", [False, True])
def test_block_is_its_definition(attention):
    mixer = SingleHeadAttention(6, 3, 2) if attention else None
    block = randomised(SHViTBlock(6, mixer, 2.0, 0.0, drop_path=0.0)).eval()
    assert block.mlp.fc1.conv.weight.shape == (12, 6, 1, 1)
    x = picture(2, 6, 3, 4)
    kept = x.clone()
    expected = x + conv_bn_by_definition(x, block.conv.conv)
    if attention:
        expected = expected + attention_by_loops(expected, mixer)
    expected = expected + mlp_by_definition(expected, block.mlp)
    torch.testing.assert_close(block(x), expected, rtol=1e-9, atol=1e-9)
    assert torch.equal(x, kept)  # what is done in place is done to its own maps


def test_downsampling_is_its_definition():
    torch.manual_seed(0)
    down = randomised(SHViT(SMALL).stages[1].downsample).eval()
    x = picture(2, 16, 5, 4)
    expected = x + conv_bn_by_definition(x, down.conv1.conv)
    expected = expected + mlp_by_definition(expected, down.mlp1)
    merging = down.merging
    expected = conv_bn_by_definition(expected, merging.conv1).clamp_min(0)
    expected = conv_bn_by_definition(expected, merging.conv2).clamp_min(0)
    means = expected.sum(dim=(2, 3)) / (expected.shape[2] * expected.shape[3])
    hidden = (means @ merging.se.fc1.weight.T + merging.se.fc1.bias).clamp_min(0)
    gate = 1 / (1 + (-(hidden @ merging.se.fc2.weight.T + merging.se.fc2.bias)).exp())
    expected = conv_bn_by_definition(expected * gate[:, :, None, None], merging.conv3)
    expected = expected + conv_bn_by_definition(expected, down.conv2.conv)
    expected = expected + mlp_by_definition(expected, down.mlp2)
    assert down(x).shape == (2, 20, 3, 2)
    torch.testing.assert_close(down(x), expected, rtol=1e-9, atol=1e-9)


def test_squeeze_is_rounded_to_eights():
    with torch.device("meta"):
        widths = {dim: PatchMerging(dim, 8).se.fc1.out_features for dim in (128, 224, 308)}
    assert widths == {128: 128, 224: 224, 308: 312}


def test_initial_values():
    torch.manual_seed(0)
    backbone = SHViT(SMALL)
    zero = {name for name, p in backbone.named_parameters() if name.endswith("bn.weight") and not p.any()}
    ends = ("mlp.fc2", "mlp1.fc2", "mlp2.fc2", "token_mixer.proj")
    expected = {f"{name}.bn.weight" for name, _ in backbone.named_modules() if name.endswith(ends)}
    expected |= {f"stages.{s}.blocks.{b}.conv.conv.bn.weight" for s, b in ((0, 0), (1, 0), (1, 1), (2, 0), (2, 1))}
    assert zero == expected and len(zero) == 3 * 5 - 1 + 4  # not the depthwise ones of the downsampling
    others = {name: p for name, p in backbone.named_parameters() if name.endswith("bn.weight") and name not in zero}
    assert all((p == 1).all() for p in others.values())
    awake = SHViT(SMALL, zero_init_residual=False)
    assert all((p == 1).all() for name, p in awake.named_parameters() if name.endswith("bn.weight"))
    bound = 1 / math.sqrt(128)  # of PyTorch's convolutions: 1 / sqrt(fan in)
    weight = SHViT(SMALL, dims=(128, 20, 24)).stages[0].blocks[0].mlp.fc1.conv.weight
    assert 0.95 * bound < weight.abs().max() <= bound and abs(weight.std() / bound - 3**-0.5) < 0.02


def test_fresh_blocks_are_the_identity():
    torch.manual_seed(0)
    stage = SHViT(SMALL).stages[2].eval()
    x = torch.randn(2, 24, 3, 4)
    y = x
    for block in stage.blocks:
        y = block(y)
    torch.testing.assert_close(y, x)


def test_the_archs_are_the_papers():
    table = {name: (v["depths"], v["dims"], v["partial_dims"][1:]) for name, v in SHViT.ARCHS.items()}
    assert table == {
        "s1": ((2, 4, 5), (128, 224, 320), (48, 68)),
        "s2": ((2, 4, 5), (128, 308, 448), (66, 96)),
        "s3": ((3, 5, 5), (192, 352, 448), (75, 96)),
        "s4": ((4, 7, 6), (224, 336, 448), (72, 96)),
    }
    with torch.device("meta"):
        backbone = SHViT("s4")
    mixers = [[block.token_mixer for block in stage.blocks] for stage in backbone.stages]
    assert mixers[0] == [None] * 4
    assert {(m.partial_dim, m.qk_dim) for m in mixers[1]} == {(72, 16)} and len(mixers[1]) == 7
    assert backbone.strides == (16, 32, 64) and SHViT.like_timm("s4") == ({}, {})


def test_token_mixers_by_config():
    mixers = ("SingleHeadAttention", dict(type="Pooling", pool_size=5), None)
    backbone = SHViT(SMALL, token_mixers=mixers, qk_dim=8)
    built = [stage.blocks[-1].token_mixer for stage in backbone.stages]
    assert (built[0].partial_dim, built[0].qk_dim) == (4, 8)
    assert isinstance(built[1], Pooling) and built[1].pool_size == 5 and built[2] is None
    assert [tuple(x.shape) for x in backbone(torch.randn(2, 3, 65, 70))] == [
        (2, 16, 5, 5),
        (2, 20, 3, 3),
        (2, 24, 2, 2),
    ]


def test_drop_path_drops_branches():
    """At a rate near 1 most pictures pass a block unchanged."""
    torch.manual_seed(0)
    block = SHViTBlock(4, SingleHeadAttention(4, 2, 2, bn_weight_init=1.0), 2.0, 1.0, drop_path=0.9).train()
    x = torch.randn(64, 4, 3, 3)
    same = (block(x) == x).flatten(1).all(dim=1).float().mean()
    assert 0.5 < same < 0.95  # 0.9 ** 3 = 0.73


@pytest.mark.parametrize("size", [(96, 64), (83, 117)])
def test_fused_gives_the_same(size):
    backbone = randomised(SHViT(SMALL, drop_path_rate=0.2)).eval()
    before = copy.deepcopy(backbone.state_dict())
    for dtype, tolerance in ((torch.float64, 1e-10), (torch.float32, 1e-4)):
        whole = copy.deepcopy(backbone).to(dtype)
        fused, x = whole.fuse(), picture(2, 3, *size).to(dtype)
        with torch.no_grad():
            for one, other in zip(fused(x), whole(x), strict=True):
                assert one.dtype == dtype and (one - other).abs().max() <= tolerance * other.abs().max()
    assert not any(isinstance(m, nn.BatchNorm2d | ConvBN | DepthwiseResidual) for m in fused.modules())
    assert count(fused) < count(backbone) and fused.feature_info.channels() == [16, 20, 24]
    assert not any(module.training for module in fused.modules())
    assert all(torch.equal(value, before[key]) for key, value in backbone.state_dict().items())


@pytest.mark.slow
def test_fused_s4_gives_the_same():
    whole = randomised(build_backbone("shvit_s4")).eval()
    x = picture(1, 3, 128, 100)
    with torch.no_grad():
        for one, other in zip(whole.fuse()(x), whole(x), strict=True):
            assert (one - other).abs().max() <= 1e-10 * other.abs().max()


def test_fused_compiles_and_exports():
    fused, x = SHViT(SMALL, zero_init_residual=False).eval().fuse(), torch.randn(2, 3, 45, 71)
    exported = torch.export.export(fused, (x,)).module()
    for one, other in zip(exported(x), fused(x), strict=True):
        torch.testing.assert_close(one, other)


def test_fuse_refuses_training_mode():
    with pytest.raises(ValueError, match=r"SHViT: fuse\(\) is for inference .* call .eval\(\) first"):
        SHViT(SMALL).fuse()
    with pytest.raises(ValueError, match=r"ConvBN: fuse\(\) needs evaluation mode"):
        ConvBN(3, 4).fuse()
    partly = SHViT(SMALL).eval()
    partly.stages[1].train()
    with pytest.raises(ValueError, match=r"ConvBN: fuse\(\) needs evaluation mode"):
        partly.fuse()
