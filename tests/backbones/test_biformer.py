"""BiFormer and its mixers against their definitions and published sizes."""

import math

import pytest
import torch
import torch.nn.functional as F
from networks import randomised
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import BiFormer, MetaFormer, build_backbone
from bestiary.backbones.biformer import BiFormerBlock, ConvDownsample, ConvStem, PatchMerging, PatchStem
from bestiary.backbones.layers import MetaFormerBlock, Mlp
from bestiary.backbones.mixers import BiLevelRouting, DepthwiseMixing, LepeAttention, SelfAttention, build_mixer
from bestiary.checkpoints import build_classifier
from bestiary.heads import LinearHead, make_classifier
from bestiary.kernels import use_backend

# Of the classifier of 1,000 classes: parameters, multiply-adds (G) at 224 x 224; both counted from the authors' code.
SIZES = {
    "biformer_tiny": (13_142_760, 2.216),
    "biformer_small": (25_536_232, 4.464),
    "biformer_base": (56_804_968, 9.759),
    "biformer_stl": (28_372_552, 4.574),
    "biformer_stl_nchw": (28_372_552, 4.574),
}
SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 24), head_dim=4, n_win=3, topk=(1, 3, 9, -2))


@pytest.mark.parametrize("name", SIZES)
def test_parameters_and_multiply_adds(name):
    """The definition of the routed attention is matrix products, so that they are counted, the routing's too."""
    with torch.device("meta"), use_backend("reference"):
        model = make_classifier(name).eval()
        with FlopCounterMode(display=False) as counter:
            model(torch.empty(1, 3, 224, 224))
    assert sum(p.numel() for p in model.parameters()) == SIZES[name][0]
    assert counter.get_total_flops() / 2e9 == pytest.approx(SIZES[name][1], rel=0.0005)


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def convolved(tokens, layer, at):
    """A depthwise convolution at one place of a map given as a dict; what is not in it is 0."""
    half = layer.kernel_size[0] // 2
    out = layer.bias.clone()
    for row in range(-half, half + 1):
        for column in range(-half, half + 1):
            if (value := tokens.get((at[0] + row, at[1] + column))) is not None:
                out = out + layer.weight[:, 0, row + half, column + half] * value
    return out


def pooled(kv, real, sides, layer):
    """Keys and values (h, w, C) of one region, pooled: vectors of those of which at least one token counts."""
    mode, found = layer.kv_downsample_mode, []
    spans = []
    for side in sides:
        if mode.startswith("ada"):
            count = layer.kv_per_win
            spans.append([(i * side // count, -(-(i + 1) * side // count)) for i in range(count)])
        else:
            step = 1 if mode == "identity" else min(layer.kv_ratio, side)
            spans.append([(i * step, (i + 1) * step) for i in range(side // step)])
    for top, bottom in spans[0]:
        for left, right in spans[1]:
            some = [kv[i][j] for i in range(top, bottom) for j in range(left, right) if real(i, j)]
            if some:
                stacked = torch.stack(some)
                found.append(stacked.amax(0) if mode.endswith("maxpool") else stacked.mean(0))
    return found


def mix_by_loops(layer, x):
    """One map (H, W, C), region by region, token by token, head by head."""
    height, width, dim = x.shape
    size, heads, qk = (height, width), layer.num_heads, layer.qk_dim
    if layer.padding == "qkv":
        sides = [max(length // count, 1) for length, count in zip(size, layer.n_win, strict=True)]
        grid = [math.ceil(length / side) for length, side in zip(size, sides, strict=True)]
    else:
        grid = layer.n_win
        sides = [math.ceil(length / count) for length, count in zip(size, grid, strict=True)]
    released = layer.padding == "input" and not layer.mask_padding
    inputs, projected, real = {}, {}, set()
    for i in range(grid[0] * sides[0]):
        for j in range(grid[1] * sides[1]):
            if i < height and j < width:
                real.add((i, j))
            inputs[i, j] = x[i, j] if (i, j) in real else torch.zeros_like(x[0, 0])
            projected[i, j] = layer.qkv.weight @ inputs[i, j] + layer.qkv.bias
            if (i, j) not in real and not released:
                projected[i, j] = torch.zeros_like(projected[i, j])
    regions = [
        [[(row * sides[0] + i, column * sides[1] + j) for j in range(sides[1])] for i in range(sides[0])]
        for row in range(grid[0])
        for column in range(grid[1])
    ]

    def mean(region, part):
        some = [projected[at][part] for line in region for at in line if released or at in real]
        value = torch.stack(some).mean(0) if some else None
        if value is not None and layer.router is not None:
            value = layer.router.weight @ value + layer.router.bias
        return value

    keys = []
    for region in regions:
        kv = [[projected[at][qk:] for at in line] for line in region]
        keys.append(pooled(kv, lambda i, j, r=region: not layer.mask_padding or r[i][j] in real, sides, layer))
    out = torch.zeros_like(x)
    seen = {at: projected[at][2 * qk :] if layer.lepe_of == "v" else inputs[at] for at in inputs}
    seen = {at: value for at, value in seen.items() if released or at in real}
    for region in regions:
        if not any(at in real for line in region for at in line):
            continue
        query = mean(region, slice(0, qk))
        means = [mean(other, slice(qk, 2 * qk)) for other in regions]
        scores = [(float("-inf") if k is None else qk**-0.5 * query @ k, n) for n, k in enumerate(means)]
        best = sorted(scores, key=lambda pair: -float(torch.as_tensor(pair[0]).detach()))[: layer.topk]
        factors = torch.ones(len(best), dtype=x.dtype)
        if layer.soft_routing:
            factors = torch.stack([torch.as_tensor(score, dtype=x.dtype) for score, _ in best]).softmax(0)
        kv = [factor * token for factor, (_, other) in zip(factors, best, strict=True) for token in keys[other]]
        for at in (at for line in region for at in line if at in real):
            mixed = []
            for head in range(heads):
                part = slice(head * qk // heads, (head + 1) * qk // heads)
                values = slice(qk + head * dim // heads, qk + (head + 1) * dim // heads)
                logits = torch.stack([qk**-0.5 * projected[at][:qk][part] @ token[part] for token in kv])
                mixed.append(logits.softmax(0) @ torch.stack([token[values] for token in kv]))
            total = torch.cat(mixed)
            if layer.lepe is not None:
                total = total + convolved(seen, layer.lepe, at)
            out[at] = layer.proj.weight @ total + layer.proj.bias
    return out


ROUTINGS = {
    "released": dict(),
    "odd regions": dict(n_win=(2, 3), topk=2),
    "of the input": dict(lepe_of="x", side_dwconv=3),
    "none": dict(lepe_of=None, topk=9),
    "narrow": dict(qk_dim=4),
    "soft": dict(soft_routing=True),
    "learned": dict(soft_routing=True, diff_routing=True, param_routing=True),
    "masked": dict(mask_padding=True),
    "masked soft": dict(mask_padding=True, soft_routing=True, topk=5),
    "nchw": dict(padding="qkv"),
    "nchw masked": dict(padding="qkv", mask_padding=True, lepe_of="x"),
    **{
        mode: dict(kv_downsample_mode=mode, kv_per_win=2, kv_downsample_ratio=2)
        for mode in ("avgpool", "maxpool", "ada_avgpool", "ada_maxpool")
    },
    **{
        f"masked {mode}": dict(kv_downsample_mode=mode, kv_per_win=2, kv_downsample_ratio=2, mask_padding=True)
        for mode in ("avgpool", "maxpool", "ada_avgpool", "ada_maxpool")
    },
}


# Maps that are divided, that are padded, and of fewer tokens than regions.
@pytest.mark.parametrize(
    ("name", "size"),
    [(name, (7, 5)) for name in ROUTINGS]
    + [(name, size) for name in ("released", "masked", "nchw", "masked avgpool") for size in ((6, 9), (2, 4))]
    + [
        pytest.param(name, size, marks=pytest.mark.slow)
        for name in ROUTINGS
        for size in ((6, 9), (2, 4), (1, 1), (8, 10))
    ],
)
def test_bi_level_routing_is_its_definition(name, size):
    layer = randomised(BiLevelRouting(8, **dict(num_heads=2, n_win=3, topk=3) | ROUTINGS[name])).eval()
    x = draw(2, *size, 8).requires_grad_()
    expected = torch.stack([mix_by_loops(layer, picture) for picture in x])
    out = layer(x)
    torch.testing.assert_close(out, expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)
    if layer.diff_routing or not layer.soft_routing:  # by default the weights are detached, in the loops they are not
        upstream, learnt = draw(*out.shape, seed=2), [x, *layer.parameters()]
        grads = [torch.autograd.grad((y * upstream).sum(), learnt) for y in (out, expected)]
        for one, other in zip(*grads, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_padding_in_its_three_ways():
    layers = [
        BiLevelRouting(8, num_heads=2, n_win=3, topk=2, **more)
        for more in (dict(), dict(padding="qkv"), dict(mask_padding=True), dict(padding="error"))
    ]
    for layer in layers:
        randomised(layer).load_state_dict(layers[0].state_dict())
    whole, odd = draw(1, 6, 9, 8), draw(1, 15, 7, 8)
    for layer in layers[1:]:  # where nothing is padded they are one
        torch.testing.assert_close(layer(whole), layers[0](whole), rtol=1e-10, atol=1e-10)
    outs = [layer(odd) for layer in layers[:3]]
    assert not any(torch.allclose(a, b) for a, b in ((outs[0], outs[1]), (outs[0], outs[2]), (outs[1], outs[2])))
    with pytest.raises(ValueError, match="3 x 3 regions of n_win do not divide a map of 15 x 7: change n_win or"):
        layers[3](odd)


def test_the_rewrite_has_as_many_regions_as_it_takes():
    """15 tokens in 7 regions are regions of 2, so there are 8."""
    layer = BiLevelRouting(8, num_heads=2, n_win=7, topk=49, padding="qkv")
    assert layer._cut((15, 14)) == ((8, 7), (2, 2))
    assert layer._cut((3, 20)) == ((3, 10), (1, 2))
    assert layer(torch.randn(1, 3, 5, 8)).shape == (1, 3, 5, 8)  # fewer regions than topk: all of them


@pytest.mark.parametrize("soft", [False, True])
def test_the_routing_is_detached(soft):
    layer = randomised(BiLevelRouting(4, num_heads=1, n_win=2, topk=2, soft_routing=soft, lepe_of=None)).eval()
    free = randomised(BiLevelRouting(4, 1, 2, 2, lepe_of=None, soft_routing=True, diff_routing=True)).eval()
    x = draw(1, 4, 4, 4).requires_grad_()
    grads = [torch.autograd.grad(mixer(x).pow(2).sum(), x)[0] for mixer in (layer, free)]
    assert not torch.allclose(*grads)
    q, k, _ = layer.qkv(x).chunk(3, -1)
    weights = layer._route(q, k, (2, 2), None).weights
    assert (weights is not None) is soft and (weights is None or not weights.requires_grad)
    assert free._route(q, k, (2, 2), None).weights.requires_grad


@pytest.mark.parametrize("lepe_of", ["x", "v"])
@pytest.mark.parametrize("size", [(3, 5), (1, 1)])
def test_lepe_attention_is_its_definition(lepe_of, size):
    layer = randomised(LepeAttention(8, num_heads=2, lepe_of=lepe_of)).eval()
    x = draw(2, *size, 8)
    out = []
    for picture in x:
        tokens = picture.flatten(0, 1)
        q, k, v = (tokens @ layer.qkv.weight.T).chunk(3, -1)
        mixed = []
        for head in range(2):
            part = slice(4 * head, 4 * head + 4)
            mixed.append((q[:, part] @ k[:, part].T * 4**-0.5).softmax(-1) @ v[:, part])
        seen = (tokens if lepe_of == "x" else v).view(*size, 8)
        seen = {(i, j): seen[i, j] for i in range(size[0]) for j in range(size[1])}
        lepe = torch.stack([convolved(seen, layer.lepe, at) for at in seen])
        out.append((torch.cat(mixed, -1) + lepe) @ layer.proj.weight.T + layer.proj.bias)
    torch.testing.assert_close(layer(x), torch.stack(out).view_as(x), rtol=1e-10, atol=1e-10)


def test_depthwise_mixing_is_its_definition():
    layer = randomised(DepthwiseMixing(6)).eval()
    x = draw(2, 4, 7, 6)
    inner = (x @ layer.pwconv1.weight.T + layer.pwconv1.bias).permute(0, 3, 1, 2)
    inner = F.conv2d(inner, layer.dwconv.weight, layer.dwconv.bias, padding=2, groups=6).permute(0, 2, 3, 1)
    expected = inner @ layer.pwconv2.weight.T + layer.pwconv2.bias
    torch.testing.assert_close(layer(x), expected, rtol=1e-10, atol=1e-10)


def norm(x, layer):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().mean(-1, keepdim=True) + 1e-6).sqrt() * layer.weight + layer.bias


def batch_norm(x, layer):
    """(B, C, H, W) by the running values."""
    scale = layer.weight / (layer.running_var + 1e-5).sqrt()
    return (x - layer.running_mean[:, None, None]) * scale[:, None, None] + layer.bias[:, None, None]


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


@pytest.mark.parametrize("position", [True, False])
def test_block_is_its_definition(position):
    arch = SMALL | dict(layer_scale_init=0.5, mlp_ratio=2.0, swin_layout=not position)
    block = randomised(BiFormer(arch).stages[1].blocks[0]).eval()
    assert type(block) is (BiFormerBlock if position else MetaFormerBlock)
    x = draw(2, 6, 7, 16)
    y = x
    if position:
        conv = block.pos_embed.conv
        y = x + F.conv2d(x.permute(0, 3, 1, 2), conv.weight, conv.bias, padding=1, groups=16).permute(0, 2, 3, 1)
    mixed = torch.stack([mix_by_loops(block.token_mixer, picture) for picture in norm(y, block.norm1)])
    y = y + block.layer_scale1.scale * mixed
    hidden = gelu(norm(y, block.norm2) @ block.mlp.fc1.weight.T + block.mlp.fc1.bias)
    y = y + block.layer_scale2.scale * (hidden @ block.mlp.fc2.weight.T + block.mlp.fc2.bias)
    torch.testing.assert_close(block(x), y, rtol=1e-10, atol=1e-10)
    assert block.mlp.fc1.out_features == 32


def test_stems_and_downsampling_are_their_definitions():
    x = draw(2, 3, 13, 22)
    stem = randomised(ConvStem(3, 8)).eval()
    y = gelu(batch_norm(F.conv2d(x, stem.conv1.weight, stem.conv1.bias, 2, 1), stem.norm1))
    y = batch_norm(F.conv2d(y, stem.conv2.weight, stem.conv2.bias, 2, 1), stem.norm2)
    torch.testing.assert_close(stem(x), y.permute(0, 2, 3, 1), rtol=1e-10, atol=1e-10)
    stem = randomised(PatchStem(3, 8)).eval()
    y = batch_norm(F.conv2d(F.pad(x, (0, 2, 0, 3)), stem.conv.weight, stem.conv.bias, 4), stem.norm)
    torch.testing.assert_close(stem(x), y.permute(0, 2, 3, 1), rtol=1e-10, atol=1e-10)
    x = draw(2, 5, 7, 6)
    down = randomised(ConvDownsample(6, 8)).eval()
    y = batch_norm(F.conv2d(x.permute(0, 3, 1, 2), down.conv.weight, down.conv.bias, 2, 1), down.norm)
    torch.testing.assert_close(down(x), y.permute(0, 2, 3, 1), rtol=1e-10, atol=1e-10)
    merging = randomised(PatchMerging(6, 8)).eval()
    y = F.pad(batch_norm(x.permute(0, 3, 1, 2), merging.norm), (0, 1, 0, 1))
    y = F.conv2d(y, merging.conv.weight, merging.conv.bias, 2)
    torch.testing.assert_close(merging(x), y.permute(0, 2, 3, 1), rtol=1e-10, atol=1e-10)


def test_mixers_by_topk():
    """Those without routing have 8 heads and no bias of the projection, whatever the channels."""
    with torch.device("meta"):
        tiny, base = (BiFormer(name) for name in ("tiny", "base"))
        other = BiFormer("tiny", topk=(0, -1, -2, 1))
        rewrite = BiFormer("stl_nchw")
    for backbone, heads in ((tiny, (2, 4, 8)), (base, (3, 6, 12))):
        routed = [stage.blocks[0].token_mixer for stage in backbone.stages]
        assert [type(mixer) for mixer in routed] == [BiLevelRouting] * 3 + [LepeAttention]
        assert tuple(mixer.num_heads for mixer in routed[:3]) == heads
        assert [mixer.topk for mixer in routed[:3]] == [1, 4, 16]
        assert {mixer.n_win for mixer in routed[:3]} == {(7, 7)} and {mixer.padding for mixer in routed[:3]} == {
            "input"
        }
        assert routed[3].num_heads == 8 and routed[3].lepe_of == "x" and routed[3].qkv.bias is None
        for mixer in routed[:3]:
            assert mixer.scale == mixer.qk_dim**-0.5 and mixer.lepe_of == "v" and mixer.qkv.bias is not None
    mixers = [stage.blocks[0].token_mixer for stage in other.stages]
    assert [type(mixer) for mixer in mixers] == [DepthwiseMixing, SelfAttention, LepeAttention, BiLevelRouting]
    assert mixers[1].num_heads == mixers[2].num_heads == 8 and mixers[3].num_heads == 16
    assert mixers[1].qkv.bias is None and mixers[1].proj.bias is not None
    mixers = [stage.blocks[0].token_mixer for stage in rewrite.stages]
    assert {mixer.padding for mixer in mixers[:3]} == {"qkv"} and mixers[3].lepe_of == "v"


def test_initial_values():
    torch.manual_seed(0)
    backbone = BiFormer("tiny", topk=(1, 4, 0, -2))
    blocks = [stage.blocks[0] for stage in backbone.stages]
    for block in (blocks[0], blocks[1], blocks[3]):
        for module in block.modules():
            if isinstance(module, nn.Linear):
                assert 0.0185 < module.weight.std() < 0.0215 and (module.bias is None or not module.bias.any())
    # What the release has as convolutions: uniform, of variance 1 / (3 fan in).
    for weight in (
        blocks[2].token_mixer.pwconv1.weight,
        backbone.stages[2].downsample.conv.weight,
        BiFormer("stl_nchw", dims=(32, 64, 64, 64), depths=(1, 1, 1, 1)).stages[1].blocks[0].mlp.fc1.weight,
    ):
        assert float(weight.detach().std()) == pytest.approx((3 * weight[0].numel()) ** -0.5, rel=0.05)
    assert not any(name.endswith(".scale") for name, _ in backbone.named_parameters())


def test_norms_of_maps_do_not_feed_the_next_stage():
    torch.manual_seed(0)
    with_norms, without = BiFormer("tiny", **SMALL).eval(), BiFormer("tiny", **SMALL, out_norm=False).eval()
    without.load_state_dict({key: value for key, value in with_norms.state_dict().items() if "norms." not in key})
    assert {layer.eps for layer in with_norms.norms.values()} == {1e-6}
    x = torch.randn(1, 3, 50, 70)
    for index, (one, other) in enumerate(zip(with_norms(x), without(x), strict=True)):
        expected = F.layer_norm(other.permute(0, 2, 3, 1), other.shape[1:2], eps=1e-6).permute(0, 3, 1, 2)
        torch.testing.assert_close(one, expected), index


def test_logits_are_norm_then_mean_then_linear():
    torch.manual_seed(0)
    model = randomised(build_classifier("biformer_tiny", num_classes=5, **SMALL)).eval()
    x = draw(2, 3, 60, 44)
    pooled_map = batch_norm(model.backbone(x)[0], model.head.norm).mean((2, 3))
    torch.testing.assert_close(model(x), pooled_map @ model.head.fc.weight.T + model.head.fc.bias)
    # In training the norm goes by all pixels, not by the pictures' means.
    head = LinearHead(24, 5, norm="BatchNorm2d", norm_first=True).train()
    maps = torch.randn(2, 24, 3, 5)
    centred = maps - maps.mean((0, 2, 3), keepdim=True)
    expected = (centred / (centred.square().mean((0, 2, 3), keepdim=True) + 1e-5).sqrt()).mean((2, 3))
    torch.testing.assert_close(head(maps), expected @ head.fc.weight.T + head.fc.bias)
    with pytest.raises(ValueError, match="LinearHead: BatchNorm2d comes before the mean; set norm_first=True"):
        LinearHead(24, 5, norm="BatchNorm2d")


def test_synchronised_norms_still_take_channels_first():
    """As segmentors have it: mmengine replaces every batch norm of the network."""
    model = build_classifier("biformer_stl", num_classes=5, **SMALL).eval()
    x = torch.randn(1, 3, 50, 66)
    expected = model(x)
    torch.testing.assert_close(nn.SyncBatchNorm.convert_sync_batchnorm(model)(x), expected)


def test_backends_agree_through_a_network():
    torch.manual_seed(0)
    backbone, x = BiFormer("tiny", depths=(1, 1, 2, 1)).eval(), torch.randn(2, 3, 130, 222)
    with torch.no_grad():
        fast = backbone(x)
        with use_backend("reference"):
            slow = backbone(x)
    for one, other in zip(fast, slow, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["bi_level_routing", "lepe_attention", "depthwise_mixing"])
def test_in_other_bodies_and_other_mixers_here(name):
    sizes = dict(depths=(1, 1, 1, 1), dims=(8, 16, 16, 32))
    mixers = ["pooling", name, dict(type=name), "neighborhood"]
    for backbone in (
        MetaFormer(sizes, token_mixers=mixers),
        build_backbone("davit_tiny", **sizes, num_heads=(1, 2, 2, 4), token_mixers=[(one, one) for one in mixers]),
        BiFormer(sizes, token_mixers=[*mixers[:2], None, name], topk=(1, 2, 3, 4), n_win=3, head_dim=4),
    ):
        maps = backbone.train()(torch.randn(2, 3, 70, 45))
        assert [x.shape[1] for x in maps] == [8, 16, 16, 32]
        sum(x.pow(2).sum() for x in maps).backward()
    routed = backbone.stages[3].blocks[0].token_mixer
    if name == "bi_level_routing":
        assert (routed.topk, routed.n_win, routed.num_heads) == (4, (3, 3), 8)


def test_messages():
    for build, message in (
        (lambda: BiFormer("tny"), "BiFormer: no arch 'tny'; .*did you mean 'tiny'"),
        (lambda: BiFormer("tiny", form="hwcn"), "BiFormer: no form 'hwcn'; there are nhwc, nchw"),
        (
            lambda: BiFormer("tiny", topk=(1, 4, 16, -3)),
            "BiFormer: topk -3 of stage 3 must be a number of regions, or 0",
        ),
        (
            lambda: BiFormer("stl_nchw", topk=(1, 4, 16, -2)),
            "topk -2 of stage 3 must be a number of regions, or -1 for",
        ),
        (lambda: BiFormer("stl_nchw", topk=(0, 4, 16, -1)), "topk 0 of stage 0 must be .* in form 'nchw'"),
        (lambda: BiFormer("tiny", topk=(1, 4, 50, -2)), "BiLevelRouting: topk 50 is more than the 7 x 7 regions"),
        (lambda: BiFormer("tiny", n_win=0), "BiLevelRouting: n_win 0 must be regions a side, or rows and columns"),
        (lambda: BiFormer("tiny", n_win=(7, 7, 7)), r"n_win \(7, 7, 7\) must be regions a side"),
        (lambda: BiFormer("tiny", head_dim=48), "BiLevelRouting: num_heads 5 must divide dim 256 and qk_dim 256"),
        (lambda: BiFormer("tiny", dims=(64, 128, 256, 500)), "the 8 heads of topk -2 do not divide the 500 channels"),
        (
            lambda: BiLevelRouting(64, topk=-2),
            "topk -2 must be at least 1; .* DepthwiseMixing, SelfAttention and LepeA",
        ),
        (lambda: BiLevelRouting(64, qk_dim=33), "num_heads 2 must divide dim 64 and qk_dim 33"),
        (lambda: BiLevelRouting(64, lepe_of="q"), "lepe_of 'q' must be one of v, x, None"),
        (lambda: BiLevelRouting(64, padding="same"), "padding 'same' must be one of input, qkv, error"),
        (
            lambda: BiLevelRouting(64, kv_downsample_mode="conv"),
            "kv_downsample_mode 'conv' must be one of identity, ada",
        ),
        (lambda: BiLevelRouting(64, kv_per_win=0), "kv_per_win 0 and kv_downsample_ratio 4 must be 1 up"),
        (lambda: BiLevelRouting(64, diff_routing=True), "diff_routing=True has weights to derive with soft_routing"),
        (lambda: BiLevelRouting(64, soft_routing=True, param_routing=True), "param_routing=True would learn nothing"),
        (lambda: BiLevelRouting(64, side_dwconv=4), "kernel_size 4 must be odd"),
        (lambda: LepeAttention(64, num_heads=3), "LepeAttention: num_heads 3 must divide dim 64"),
        (lambda: LepeAttention(64, lepe_of="q"), "LepeAttention: lepe_of 'q' must be x or v"),
        (lambda: build_mixer("bi_level_router", 64), "did you mean 'BiLevelRouting'"),
    ):
        with pytest.raises(ValueError, match=message), torch.device("meta"):
            build()


def test_the_mlp_is_the_papers():
    assert isinstance(BiFormer("tiny", **SMALL).stages[0].blocks[0].mlp, Mlp)
    assert BiFormer("tiny", **SMALL).stages[0].blocks[0].mlp.fc1.out_features == 24
    assert BiFormer("stl", **SMALL).stages[0].blocks[0].mlp.fc1.out_features == 32
