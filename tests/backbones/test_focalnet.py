"""FocalNet against its definition, its published sizes and timm's."""

import contextlib
import math

import pytest
import timm.models.focalnet
import torch
import torch.nn.functional as F
from networks import count, randomised
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import FocalNet
from bestiary.backbones.layers import MetaFormerBlock, Mlp
from bestiary.backbones.mixers import FocalModulation, Identity, Pooling, build_mixer
from bestiary.checkpoints import build_classifier

# Parameters of the classifier, its classes, multiply-adds in 10^9 and their picture's side: timm's, counted.
SIZES = {
    "tiny_srf": (28_427_116, 1000, 4.403, 224),
    "tiny_lrf": (28_647_928, 1000, 4.475, 224),
    "small_srf": (49_891_216, 1000, 8.599, 224),
    "small_lrf": (50_342_440, 1000, 8.715, 224),
    "base_srf": (88_148_144, 1000, 15.241, 224),
    "base_lrf": (88_749_768, 1000, 15.397, 224),
    "large_fl3": (239_134_898, 21842, 104.905, 384),
    "large_fl4": (239_315_402, 21842, 105.042, 384),
    "xlarge_fl3": (408_787_378, 21842, 185.399, 384),
    "xlarge_fl4": (409_028_042, 21842, 185.582, 384),
    "huge_fl3": (745_276_338, 21842, 118.120, 224),
    "huge_fl4": (686_460_664, 0, 118.760, 224),
}
ISOTROPIC = {
    "tiny_iso": (5.9, 1.1),
    "small_iso": (22.4, 4.3),
    "base_iso": (87.2, 16.9),
}  # the paper's, in 10^6 and 10^9
SMALL = dict(depths=(1, 2, 1, 1), dims=(16, 32, 64, 128))
LARGE_LIKE = dict(
    depths=(1, 1, 2, 1),
    dims=(8, 12, 16, 20),
    focal_levels=3,
    focal_windows=5,
    conv_embed=True,
    post_norm=True,
    layer_scale_init=1.0,
    modulation_norm=True,
)


def picture(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_every_arch_is_counted_here():
    assert {*SIZES, *ISOTROPIC} == set(FocalNet.ARCHS)
    assert {f"focalnet_{arch}" for arch in SIZES} == set(timm.list_models("focalnet*"))


@pytest.mark.parametrize("arch", SIZES)
def test_parameters_and_multiply_adds(arch):
    parameters, classes, billions, size = SIZES[arch]
    with torch.device("meta"):
        model, x = build_classifier(f"focalnet_{arch}", classes or 1).eval(), torch.empty(1, 3, size, size)
    head = model.head if classes else model.head.norm
    assert count(model.backbone) + count(head) == parameters
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=0.005)


def test_output_norms_are_extra_parameters():
    normed, bare = FocalNet(SMALL), FocalNet(SMALL, out_norm=False)
    assert count(normed) == count(bare) + 2 * sum(SMALL["dims"])
    bare.load_state_dict({key: value for key, value in normed.state_dict().items() if not key.startswith("norms")})
    randomised(normed.norms)
    x = picture(1, 3, 45, 71)
    for stage, one, other in zip("0123", normed.double()(x), bare.double()(x), strict=True):
        expected = norm_by_definition(other.permute(0, 2, 3, 1), normed.norms[stage])
        torch.testing.assert_close(one, expected.permute(0, 3, 1, 2))


@pytest.mark.parametrize("arch", ISOTROPIC)
def test_isotropic_sizes_are_the_papers(arch):
    with torch.device("meta"):
        model, x = build_classifier(f"focalnet_{arch}").eval(), torch.empty(1, 3, 224, 224)
        assert model.backbone(x)[0].shape[2:] == (14, 14) and model.backbone.feature_info.reduction() == [16]
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    millions, billions = ISOTROPIC[arch]
    assert round(count(model) / 1e6, 1) == millions
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, abs=0.1)


def gelu_by_definition(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def norm_by_definition(x, norm):
    mean = x.sum(dim=-1, keepdim=True) / x.shape[-1]
    variance = ((x - mean) ** 2).sum(dim=-1, keepdim=True) / x.shape[-1]
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def depthwise_by_loops(x, weight):
    """x (B, H, W, C), weight (C, 1, k, k); zeros all round."""
    out, (_, height, width, _), side = torch.zeros_like(x), x.shape, weight.shape[-1]
    for row in range(height):
        for column in range(width):
            for down in range(side):
                for right in range(side):
                    r, c = row + down - side // 2, column + right - side // 2
                    if 0 <= r < height and 0 <= c < width:
                        out[:, row, column] += x[:, r, c] * weight[:, 0, down, right]
    return out


def modulation_by_definition(x, mixer, windows, normalize, normed):
    """Eq. 3 to 7 of the paper, level by level; x (B, H, W, C)."""
    dim = x.shape[-1]
    z = x @ mixer.f.weight.T + mixer.f.bias
    query, context, gates = z[..., :dim], z[..., dim : 2 * dim], z[..., 2 * dim :]
    assert gates.shape[-1] == len(windows) + 1
    total = torch.zeros_like(query)
    for level, window in enumerate(windows):
        weight = mixer.focal_layers[level].weight
        assert weight.shape == (dim, 1, window, window)
        context = gelu_by_definition(depthwise_by_loops(context, weight))
        total = total + context * gates[..., level, None]
    whole = gelu_by_definition(context.sum(dim=(1, 2)) / (x.shape[1] * x.shape[2]))
    total = total + whole[:, None, None] * gates[..., -1, None]
    if normalize:
        total = total / len(gates[0, 0, 0])
    out = query * (total @ mixer.h.weight.T + mixer.h.bias)
    out = norm_by_definition(out, mixer.norm) if normed else out
    return out @ mixer.proj.weight.T + mixer.proj.bias


@pytest.mark.parametrize("shape", [(2, 5, 4, 6), (1, 1, 3, 4), (1, 7, 1, 3)])
@pytest.mark.parametrize(
    ("levels", "window", "normalize", "normed"), [(2, 3, False, False), (3, 3, True, False), (3, 5, False, True)]
)
def test_modulation_is_its_definition(shape, levels, window, normalize, normed):
    mixer = randomised(FocalModulation(shape[-1], levels, window, normalize, normed))
    x, windows = picture(*shape), [window + 2 * level for level in range(levels)]
    expected = modulation_by_definition(x, mixer, windows, normalize, normed)
    torch.testing.assert_close(mixer(x), expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        kept = x.clone()
        torch.testing.assert_close(mixer(x), expected, rtol=1e-10, atol=1e-10)
        assert torch.equal(x, kept)


@pytest.mark.parametrize("normed", [True, False])
def test_modulations_derivatives(normed):
    mixer, x = randomised(FocalModulation(3, 1, 3, modulation_norm=normed)), picture(1, 3, 2, 3).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: mixer(x), (x, *mixer.parameters()))


def test_the_product_before_the_last_layer_is_not_kept():
    mixer, x, kept = randomised(FocalModulation(4)), picture(1, 3, 5, 4), []
    with torch.autograd.graph.saved_tensors_hooks(lambda value: kept.append(value) or value, lambda value: value):
        y = mixer(x)
    maps = [value for value in kept if value.shape == x.shape]
    assert any(torch.equal(value, mixer.f(x)[..., :4]) for value in maps)  # the query is
    assert not any(torch.allclose(value @ mixer.proj.weight.T + mixer.proj.bias, y) for value in maps)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize("post_norm", [True, False])
def test_block_is_its_definition(post_norm, scaled):
    dim = 6
    norms, mlp = (nn.LayerNorm(dim), nn.LayerNorm(dim)), Mlp(dim, int(2.5 * dim))
    scale = 0.5 if scaled else None
    block = randomised(MetaFormerBlock(dim, FocalModulation(dim), mlp, norms, scale, post_norm=post_norm))
    assert block.mlp.fc1.weight.shape == (15, dim)
    x = picture(2, 4, 3, dim)

    def branch(x, norm, inner, scale):
        out = norm_by_definition(inner(x), norm) if post_norm else inner(norm_by_definition(x, norm))
        return x + (out * scale.scale if scaled else out)

    def mlp(x):
        hidden = gelu_by_definition(x @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
        return hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias

    def mixer(x):
        return modulation_by_definition(x, block.token_mixer, [3, 5], False, False)

    expected = branch(x, block.norm1, mixer, block.layer_scale1)
    expected = branch(expected, block.norm2, mlp, block.layer_scale2)
    torch.testing.assert_close(block(x), expected, rtol=1e-10, atol=1e-10)


@contextlib.contextmanager
def timms(depths=(1, 2, 1, 1), embed_dim=16):
    """timm's models with other depths and widths, which their entry points do not let one choose."""
    create = timm.models.focalnet._create_focalnet
    changes = dict(depths=list(depths), **(dict(embed_dim=embed_dim) if embed_dim else {}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            timm.models.focalnet, "_create_focalnet", lambda name, **kwargs: create(name, **{**kwargs, **changes})
        )
        yield


@pytest.mark.parametrize("arch", SIZES)
def test_all_is_timms(same_as_timm, arch):
    same_as_timm(f"focalnet_{arch}", (64, 96), changes=SMALL, prepare=timms)
    same_as_timm(f"focalnet_{arch}", (61, 75), changes=SMALL, prepare=timms, batch=1)


@pytest.mark.parametrize("arch", ["tiny_lrf", "large_fl3", "large_fl4", "huge_fl3"])
def test_gradients_are_timms(same_as_timm, arch):
    still = dict(drop_path_rate=0.0)  # timm's own default is 0.1
    same_as_timm(f"focalnet_{arch}", (64, 96), timm_kwargs=still, changes=SMALL, prepare=timms, gradients=True)


def test_the_smallest_is_timms_in_float32(same_as_timm):
    same_as_timm("focalnet_tiny_srf", (96, 75), batch=1, dtype=torch.float32, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in SIZES if arch.endswith("rf")])
def test_whole_networks_are_timms(same_as_timm, arch):
    same_as_timm(f"focalnet_{arch}", (64, 96))
    same_as_timm(f"focalnet_{arch}", (83, 117), batch=1)
    same_as_timm(f"focalnet_{arch}", (64, 96), dtype=torch.float32, tolerance=1e-5)
    same_as_timm(f"focalnet_{arch}", (64, 64), timm_kwargs=dict(drop_path_rate=0.0), gradients=True)


@pytest.mark.slow
@pytest.mark.parametrize("arch", [arch for arch in SIZES if not arch.endswith("rf")])
def test_wide_networks_are_timms(same_as_timm, arch):
    same_as_timm(
        f"focalnet_{arch}",
        (64, 96),
        changes=dict(depths=(1, 1, 1, 1)),
        prepare=lambda: timms((1, 1, 1, 1), embed_dim=None),
    )


def test_large_fl4_divides_by_its_levels_as_the_release_says():
    """timm's does not: with random weights the two are different functions."""
    divides = [arch for arch, table in FocalNet.ARCHS.items() if table.get("normalize_modulator")]
    assert divides == ["large_fl4"]
    timm_like = FocalNet.like_timm("large_fl4")[0]
    assert timm_like == dict(pad_input=False, normalize_modulator=False)
    paper = randomised(FocalNet("large_fl4", **SMALL)).eval()
    other = FocalNet("large_fl4", **SMALL, **timm_like).double().eval()
    other.load_state_dict(paper.state_dict())
    x = picture(1, 3, 64, 64)
    with torch.no_grad():
        for one, two in zip(paper(x), other(x), strict=True):
            assert (one - two).abs().max() > 0.01 * one.abs().max()
        mixer, tokens = paper.stages[0].blocks[0].token_mixer, picture(2, 4, 5, 16)
        expected = modulation_by_definition(tokens, mixer, [3, 5, 7, 9], True, False)
        torch.testing.assert_close(mixer(tokens), expected)


def test_head_norms_every_position_then_takes_the_mean():
    model = build_classifier("focalnet_tiny_srf", num_classes=5, **SMALL)
    head = randomised(model.head)
    x = picture(2, 128, 3, 4) + 0.7
    normed = norm_by_definition(x.permute(0, 2, 3, 1), head.norm)
    torch.testing.assert_close(head((x,)), normed.sum(dim=(1, 2)) / 12 @ head.fc.weight.T + head.fc.bias)


@pytest.mark.parametrize("arch", [dict(SMALL, focal_levels=1), LARGE_LIKE])
def test_padding_changes_odd_sizes_alone(arch):
    padded = randomised(FocalNet(arch)).eval()
    plain = FocalNet(arch, pad_input=False).double().eval()
    plain.load_state_dict(padded.state_dict())
    odd, even = picture(1, 3, 61, 66), picture(1, 3, 64, 96)
    with torch.no_grad():
        for one, two in zip(padded(even), plain(even), strict=True):
            assert torch.equal(one, two)
        by_hand = padded(F.pad(odd, (0, 2, 0, 3)))
        for one, two in zip(padded(odd), by_hand, strict=True):
            torch.testing.assert_close(one, two)
        assert padded(odd)[0].shape[2:] == (16, 17)
        floors = [tuple(x.shape[2:]) for x in plain(picture(1, 3, 250, 333))]
    expected = [(62, 83), (31, 41), (15, 20), (7, 10)]  # as timm gives them
    assert (floors == expected) == (not padded.arch.conv_embed)


@pytest.mark.parametrize("padding", [2, 3])
def test_overlapping_embeddings_round_up_and_train(padding):
    backbone = FocalNet(LARGE_LIKE, stem_padding=padding).train()
    for size in ((32, 32), (33, 34), (35, 47), (45, 71)):
        maps = backbone(picture(2, 3, *size).float())
        assert [tuple(x.shape[2:]) for x in maps] == [
            (math.ceil(size[0] / stride), math.ceil(size[1] / stride)) for stride in (4, 8, 16, 32)
        ]
    sum((x * picture(*x.shape, seed=i)).sum() for i, x in enumerate(maps)).backward()
    assert all(p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_stem_padding_moves_the_grid():
    two, three = (FocalNet(LARGE_LIKE, stem_padding=padding, out_indices=(0,)).double() for padding in (2, 3))
    three.load_state_dict(two.state_dict())
    x = picture(1, 3, 64, 64)
    moved = F.pad(x, (1, -1, 1, -1))  # what padding by one more at the top and the left sees
    one, other = two.stem(moved), three.stem(x)
    torch.testing.assert_close(one[:, :-1, :-1], other[:, :-1, :-1])
    assert (two.stem(x) - other).abs().max() > 0.1


@pytest.mark.parametrize("size", [(16, 16), (17, 40), (75, 133)])
def test_isotropic_networks_take_any_size(size):
    backbone = FocalNet("tiny_iso", depths=(2,), dims=(16,)).train()
    (x,) = backbone(picture(2, 3, *size).float())
    assert x.shape == (2, 16, math.ceil(size[0] / 16), math.ceil(size[1] / 16))
    (x * picture(*x.shape)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in backbone.parameters())


def test_initial_values():
    torch.manual_seed(0)
    backbone = FocalNet("large_fl3", depths=(1, 1, 1, 1), dims=(32, 64, 96, 128))
    for name, module in backbone.named_modules():
        if isinstance(module, nn.Linear) and not name.endswith(".h"):
            assert 0.018 < module.weight.std() < 0.022 and not module.bias.any(), name
        elif isinstance(module, nn.LayerNorm):
            assert (module.weight == 1).all() and not module.bias.any() and module.eps == 1e-5
        elif isinstance(module, nn.Conv2d) or name.endswith(".h"):  # PyTorch's for convolutions: uniform
            bound = math.prod(module.weight.shape[1:]) ** -0.5
            assert 0.9 * bound < module.weight.abs().max() <= bound, name
            assert abs(module.weight.std() * math.sqrt(3) - bound) < 0.1 * bound
    scales = [p for name, p in backbone.named_parameters() if name.endswith(".scale")]
    assert len(scales) == 8 and all((scale == 1e-4).all() for scale in scales)
    scaled = {arch for arch, table in FocalNet.ARCHS.items() if table.get("layer_scale_init") == 1e-4}
    assert scaled == {*(arch for arch in SIZES if not arch.endswith("rf")), "base_iso"}


def test_values_a_stage():
    backbone = FocalNet(SMALL, focal_windows=(11, 9, 9, 7), focal_levels=[3, 2, 2, 1])
    sides = [[conv.kernel_size[0] for conv in stage.blocks[-1].token_mixer.focal_layers] for stage in backbone.stages]
    assert sides == [[11, 13, 15], [9, 11], [9, 11], [7]]
    mixers = ["identity", "FocalModulation", dict(type="FocalModulation", focal_window=7), dict(type=Pooling)]
    backbone = FocalNet(SMALL, token_mixers=mixers, focal_levels=1)
    built = [stage.blocks[-1].token_mixer for stage in backbone.stages]
    assert [type(mixer) for mixer in built] == [Identity, FocalModulation, FocalModulation, Pooling]
    assert [mixer.focal_layers[0].kernel_size[0] for mixer in built[1:3]] == [3, 7]
    assert all(mixer.focal_levels == 1 for mixer in built[1:3])
    assert len(backbone(torch.randn(1, 3, 40, 40))) == 4


def test_mixer_by_name():
    for shape in ((2, 5, 7, 6), (1, 2, 3, 6), (0, 4, 4, 6)):
        assert build_mixer("focal_modulation", 6)(torch.randn(shape)).shape == shape


def test_messages():
    for arguments, message in (
        (dict(focal_windows=(9, 9)), r"FocalNet: focal_windows \(9, 9\) must be one value or have 4 entries, one a"),
        (dict(focal_levels=[1] * 5), r"focal_levels \[1, 1, 1, 1, 1\] must be one value or have 4 entries"),
        (dict(token_mixers=["Pooling"]), r"token_mixers \['Pooling'\] must be one value or have 4 entries"),
        (dict(focal_windows=4), "FocalModulation: focal_window 4 must be odd"),
        (dict(focal_levels=0), "FocalModulation: focal_levels 0 must be at least 1"),
        (dict(strides=(2, 4, 8, 16), conv_embed=True), "FocalNet: conv_embed has a stem of stride 4, not 2"),
        (dict(token_mixers="Focal"), r"no token mixer 'Focal'; there are .*FocalModulation"),
    ):
        with torch.device("meta"), pytest.raises(ValueError, match=message):
            FocalNet("tiny_srf", **arguments)
