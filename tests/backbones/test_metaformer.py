"""PoolFormer against its definition, its published sizes and timm's."""

import math

import pytest
import timm
import torch
from networks import count, randomised
from torch import nn

from bestiary.backbones import PoolFormer
from bestiary.backbones.layers import GroupNorm1, MetaFormerBlock, Mlp
from bestiary.backbones.mixers import Pooling
from bestiary.checkpoints import build_classifier, convert_state_dict
from bestiary.heads import LinearHead

# Parameters of the backbone without output norms, and of the classifier of 1,000 classes: timm's, counted.
COUNTS = {
    "s12": (11_401_152, 11_915_176),
    "s24": (20_874_944, 21_388_968),
    "s36": (30_348_736, 30_862_760),
    "m36": (55_401_984, 56_172_520),
    "m48": (72_702_912, 73_473_448),
}


@pytest.mark.parametrize("arch", PoolFormer.ARCHS)
def test_parameter_counts(arch):
    with torch.device("meta"):
        bare, normed = PoolFormer(arch, out_norm=False), PoolFormer(arch)
        classifier = build_classifier(f"poolformer_{arch}")
    assert (count(bare), count(classifier)) == COUNTS[arch]
    assert count(normed) == count(bare) + 2 * sum(normed.arch.dims)


def test_initial_values():
    torch.manual_seed(0)
    backbone = PoolFormer(dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128), layer_scale_init=1e-6))
    for module in backbone.modules():
        if isinstance(module, nn.Linear):
            assert 0.018 < module.weight.std() < 0.022 and not module.bias.any()
    scales = [p for name, p in backbone.named_parameters() if name.endswith(".scale")]
    assert len(scales) == 8 and all((scale == 1e-6).all() for scale in scales)
    with torch.device("meta"):
        inits = {arch: PoolFormer(arch).arch.layer_scale_init for arch in PoolFormer.ARCHS}
    assert inits == dict(s12=1e-5, s24=1e-5, s36=1e-6, m36=1e-6, m48=1e-6)


def pooling_by_loops(x, size):
    """Mean of the real neighbours less the token; x (B, H, W, C)."""
    batch, height, width, _ = x.shape
    out, reach = torch.empty_like(x), size // 2
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                rows = range(max(i - reach, 0), min(i + reach + 1, height))
                columns = range(max(j - reach, 0), min(j + reach + 1, width))
                near = [x[b, r, c] for r in rows for c in columns]
                out[b, i, j] = sum(near) / len(near) - x[b, i, j]
    return out


def norm_by_definition(x, norm, eps):
    """One mean and variance a picture; scale and shift a channel."""
    pictures = []
    for picture in x:
        mean = picture.sum() / picture.numel()
        variance = ((picture - mean) ** 2).sum() / picture.numel()
        pictures.append((picture - mean) / (variance + eps).sqrt() * norm.weight + norm.bias)
    return torch.stack(pictures)


def mlp_by_definition(x, mlp):
    hidden = x @ mlp.fc1.weight.T + mlp.fc1.bias
    hidden = hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2)))  # the exact GELU
    return hidden @ mlp.fc2.weight.T + mlp.fc2.bias


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 4, 2), (1, 2, 1, 5)])
@pytest.mark.parametrize("size", [1, 3, 5])
def test_pooling_is_its_definition(shape, size):
    x = torch.randn(shape, dtype=torch.float64)
    pooling, wanted = Pooling(shape[-1], size), pooling_by_loops(x, size)
    torch.testing.assert_close(pooling(x), wanted)
    torch.compiler.reset()
    torch.testing.assert_close(torch.compile(pooling, fullgraph=True, backend="aot_eager")(x), wanted)


def test_pooling_takes_odd_windows():
    with pytest.raises(ValueError, match="Pooling: pool_size 4 must be odd"):
        Pooling(8, pool_size=4)


def test_block_is_its_definition():
    dim = 6
    norms = GroupNorm1(dim), GroupNorm1(dim)
    block = randomised(MetaFormerBlock(dim, Pooling(dim), Mlp(dim, 15), norms, layer_scale_init=0.5))
    x = torch.randn(2, 5, 3, dim, dtype=torch.float64) * 2 + 1
    expected = x + block.layer_scale1.scale * pooling_by_loops(norm_by_definition(x, block.norm1, 1e-5), 3)
    expected = expected + block.layer_scale2.scale * mlp_by_definition(
        norm_by_definition(expected, block.norm2, 1e-5), block.mlp
    )
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():  # where the layer scale is multiplied otherwise
        torch.testing.assert_close(block(x), expected.detach(), rtol=1e-10, atol=1e-10)


@pytest.fixture(scope="module")
def s12():
    """timm's poolformer_s12 in float64 with layer scales of 0.5 to 1.5 (1e-5 would hide the blocks) and other norms."""
    torch.manual_seed(0)
    model = timm.create_model("poolformer_s12").double().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.uniform_(0.5, 1.5)
            elif "norm" in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def ours(s12, head_eps=1e-6, norm_first=False, **kwargs):
    model = build_classifier("poolformer_s12", **kwargs).double().eval()
    model.head = LinearHead(512, 1000, norm="GroupNorm1", norm_first=norm_first, norm_eps=head_eps).double()
    weights = convert_state_dict(s12.state_dict(), "poolformer_s12", "timm", "bestiary")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    assert not missing and not unexpected
    return model


@pytest.mark.parametrize(("size", "pad_input"), [((83, 117), False), ((64, 96), True)])
def test_features_are_timms(s12, size, pad_input):
    x = torch.randn(2, 3, *size, dtype=torch.float64)
    with torch.no_grad():
        _, theirs = s12.forward_intermediates(x)
        maps = ours(s12, out_indices=(0, 1, 2, 3), pad_input=pad_input).backbone(x)
    for stage, (one, other) in enumerate(zip(maps, theirs, strict=True)):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9, msg=lambda m, stage=stage: f"stage {stage}: {m}")


def test_padding_changes_odd_sizes_alone(s12):
    padded, plain = (ours(s12, pad_input=pad).backbone for pad in (True, False))
    with torch.no_grad():
        odd, even = torch.randn(1, 3, 61, 66).double(), torch.randn(1, 3, 64, 68).double()
        assert padded(odd)[0].shape[2:] == (2, 3) == plain(even)[0].shape[2:]
        assert torch.equal(padded(even)[0], plain(even)[0])
        by_hand = nn.functional.pad(odd, (0, 2, 0, 3))
        torch.testing.assert_close(padded(odd)[0], plain(by_hand)[0])


def test_logits_are_timms_in_timms_order(s12):
    x = torch.randn(2, 3, 70, 59, dtype=torch.float64)
    with torch.no_grad():
        theirs = s12(x)
        torch.testing.assert_close(ours(s12, pad_input=False)(x), theirs, rtol=1e-9, atol=1e-9)
        official = ours(s12, pad_input=False, head_eps=1e-5, norm_first=True)(x)
    assert (official - theirs).abs().max() > 0.1  # the authors' order is another function


def test_official_order_is_norm_then_mean():
    head = randomised(LinearHead(5, 3, norm="GroupNorm1", norm_first=True))
    x = torch.randn(2, 5, 4, 3, dtype=torch.float64) + 0.7
    normed = norm_by_definition(x.permute(0, 2, 3, 1), head.norm, 1e-5)
    expected = normed.sum(dim=(1, 2)) / 12 @ head.fc.weight.T + head.fc.bias
    torch.testing.assert_close(head((x,)), expected)


def test_out_norm_is_one_norm_of_all_pixels():
    torch.manual_seed(0)
    arch = dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 10), layer_scale_init=1.0)
    with_norm = randomised(PoolFormer(arch, out_indices=(1, 3)))
    without = PoolFormer(arch, out_indices=(1, 3), out_norm=False).double()
    without.load_state_dict({k: v for k, v in with_norm.state_dict().items() if not k.startswith("norms.")})
    x = torch.randn(2, 3, 37, 41, dtype=torch.float64)
    for stage, one, other in zip("13", with_norm(x), without(x), strict=True):
        expected = norm_by_definition(other.permute(0, 2, 3, 1), with_norm.norms[stage], 1e-5)
        torch.testing.assert_close(one, expected.permute(0, 3, 1, 2))


def test_with_timms_arithmetic_all_is_timms(same_as_timm):
    same_as_timm("poolformer_s12", (83, 117))
    same_as_timm("poolformer_s12", (64, 64), gradients=True)
    same_as_timm("poolformer_s12", (64, 96), dtype=torch.float32, tolerance=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_group_norm_in_compiled_graphs(bias):
    """There it is an operator of its own, with a derivative of its own."""
    norm = randomised(GroupNorm1(6, bias=bias))
    x, weight = (torch.randn(3, 5, 7, 6, dtype=torch.float64) for _ in range(2))
    x.requires_grad_()
    found = []
    for run in (norm, torch.compile(norm, fullgraph=True, backend="aot_eager")):
        y = run(x)
        found.append([y.detach(), *torch.autograd.grad((y * weight).sum(), [x, *norm.parameters()])])
    torch.testing.assert_close(found[1], found[0], rtol=1e-12, atol=1e-12)
    arguments = x.permute(0, 3, 1, 2), norm.weight, norm.bias, norm.eps
    torch.library.opcheck(torch.ops.bestiary.group_norm1, arguments)
