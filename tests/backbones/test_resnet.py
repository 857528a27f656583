"""ResNets with ECA and ELA against definitions, published sizes and timm's."""

import math

import pytest
import timm
import torch
import torchvision
from networks import randomised
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import ResNet, build_backbone, resnet
from bestiary.backbones.layers.max_pool import MaxPool
from bestiary.backbones.resnet import ResidualBlock, ResNetStem
from bestiary.checkpoints import build_classifier

PLAIN = {"18": 11_689_512, "34": 21_797_672, "50": 25_557_032, "101": 44_549_160, "152": 60_192_808}  # torchvision's
BLOCKS = {"18": (2, 2, 2, 2), "34": (3, 4, 6, 3), "50": (3, 4, 6, 3), "101": (3, 4, 23, 3), "152": (3, 8, 36, 3)}
RELEASED = {"18": (3, 5, 7, 7), "34": (3, 3, 5, 7), "50": (3, 5, 5, 7), "101": (3, 3, 5, 7), "152": (3, 3, 5, 7)}
# The authors' code counted with its default, a kernel of 3 everywhere; the released weights have the lists above.
ECA_OF_3 = {"18": 11_689_536, "34": 21_797_720, "50": 25_557_080, "101": 44_549_259, "152": 60_192_958}
ELA = {  # by the formula of the parameters a module, 7 C, 9 C, 42 C, 58 C
    "18": (11_702_952, 11_706_792, 11_770_152, 11_800_872),
    "34": (21_824_104, 21_831_656, 21_956_264, 22_016_680),
    "50": (25_662_760, 25_692_968, 26_191_400, 26_433_064),
    "101": (44_776_744, 44_841_768, 45_914_664, 46_434_856),
}
TIMM = {  # timm's: parameters, size of the picture, multiply-adds in 10^9
    "ecaresnet26t": (16_011_916, 256, 3.330),
    "ecaresnetlight": (30_162_046, 224, 4.089),
    "ecaresnet50d": (25_576_350, 224, 4.329),
    "ecaresnet50d_pruned": (19_939_713, 224, 2.520),
    "ecaresnet50t": (25_573_814, 256, 5.612),
    "ecaresnet101d": (44_568_563, 224, 8.041),
    "ecaresnet101d_pruned": (24_876_040, 224, 3.461),
    "ecaresnet200d": (64_693_400, 256, 19.914),
    "ecaresnet269d": (102_093_077, 320, 41.365),
    "ecaresnext26t_32x4d": (15_406_220, 224, 2.679),
    "ecaresnext50t_32x4d": (25_045_686, 224, 4.439),
}
SMALL = dict(depths=(1, 2, 1, 1), dims=(16, 24, 32, 40), stem_dims=(8,))
SHORT = (1, 2, 1, 1)


def classifier_count(name, **kwargs):
    with torch.device("meta"):
        return sum(p.numel() for p in build_classifier(name, **kwargs).parameters())


def test_names():
    expected = {f"resnet{depth}" for depth in PLAIN} | {f"eca_resnet{depth}" for depth in PLAIN} | set(TIMM)
    assert set(ResNet.ARCHS) == expected | {f"ela_{size}_resnet{depth}" for size in "tbsl" for depth in ELA}


@pytest.mark.parametrize("depth", PLAIN)
def test_parameter_counts(depth):
    assert classifier_count(f"resnet{depth}") == PLAIN[depth]
    kernels = sum(blocks * size for blocks, size in zip(BLOCKS[depth], RELEASED[depth], strict=True))
    assert classifier_count(f"eca_resnet{depth}") == PLAIN[depth] + kernels
    assert classifier_count(f"eca_resnet{depth}", eca_kernels=3) == ECA_OF_3[depth]
    if depth in ELA:
        assert tuple(classifier_count(f"ela_{size}_resnet{depth}") for size in "tbsl") == ELA[depth]


@pytest.mark.parametrize("name", TIMM)
def test_timms_parameter_counts(name):
    assert classifier_count(name) == TIMM[name][0]


DEEP = ("ecaresnet101d_pruned", "ecaresnet101d", "ecaresnet200d", "ecaresnet269d")


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEEP else []) for n in TIMM])
def test_timms_multiply_adds(name):
    _, size, expected = TIMM[name]
    with torch.device("meta"):
        model, x = build_classifier(name).eval(), torch.empty(1, 3, size, size)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(x)
    assert counter.get_total_flops() / 2e9 == pytest.approx(expected, rel=0.005)


@pytest.mark.parametrize("depth", ["18", "50"])
def test_with_eca_a_thousandth_more_than_torchvisions_multiply_adds(depth):
    counts = []
    with torch.device("meta"):
        models = build_classifier(f"eca_resnet{depth}"), getattr(torchvision.models, f"resnet{depth}")()
        x = torch.empty(1, 3, 224, 224)
    for model in models:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            model.eval()(x)
        counts.append(counter.get_total_flops())
    assert counts[1] < counts[0] < 1.001 * counts[1]


SHORTENED = dict(timm_kwargs=dict(layers=SHORT), changes=dict(depths=SHORT))
ECA_IN_TIMM = dict(block_args=dict(attn_layer="eca"))


# Of one depth, the others are one or another of these; in full depth they come below.
@pytest.mark.parametrize("name", ["ecaresnet26t", "ecaresnetlight", "ecaresnet50d", "ecaresnext26t_32x4d"])
def test_all_is_timms(same_as_timm, name):
    same_as_timm(name, (37, 53), **SHORTENED)
    same_as_timm(name, (64, 32), batch=1, **SHORTENED)


@pytest.mark.parametrize("name", ["ecaresnet50d_pruned", pytest.param("ecaresnet101d_pruned", marks=pytest.mark.slow)])
def test_the_pruned_are_timms(same_as_timm, name):
    same_as_timm(name, (37, 53))


@pytest.mark.slow
@pytest.mark.parametrize("name", [*(f"resnet{d}" for d in PLAIN), *(n for n in TIMM if not n.endswith("_pruned"))])
def test_in_full_depth_all_is_timms(same_as_timm, name):
    depths = {}
    if name == "ecaresnet269d":
        # With random norms its 48 blocks in a row are chaotic: timm's own logits move by 2e-7 of the largest where the
        # picture moves by 1e-15. A third of them show the same.
        depths = dict(timm_kwargs=dict(layers=(3, 30, 16, 8)), changes=dict(depths=(3, 30, 16, 8)))
    same_as_timm(name, (64, 96), batch=1, **depths)


@pytest.mark.parametrize("depth", ["18", "50"])
def test_plain_ones_are_timms(same_as_timm, depth):
    same_as_timm(f"resnet{depth}", (37, 53), **SHORTENED)


@pytest.mark.parametrize("depth", ["18", "50"])
def test_with_timms_kernels_ecas_are_timms(same_as_timm, depth):
    timm_kwargs = dict(ECA_IN_TIMM, layers=SHORT)
    same_as_timm(f"eca_resnet{depth}", (37, 53), f"resnet{depth}", timm_kwargs=timm_kwargs, changes=dict(depths=SHORT))


def test_timms_eca_kernels_are_not_the_releases():
    with torch.device("meta"):
        ours, likes = build_backbone("eca_resnet50"), build_backbone("eca_resnet50", like="timm")
        theirs = timm.create_model("resnet50", **ECA_IN_TIMM)
    sizes = [[stage.blocks[0].join.attn.conv.kernel_size[0] for stage in net.stages] for net in (ours, likes)]
    assert sizes == [[3, 5, 5, 7], [5, 5, 5, 7]]
    layers = (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
    assert [layer[0].se.conv.kernel_size[0] for layer in layers] == sizes[1]


@pytest.mark.parametrize("name", ["resnet18", "ecaresnet26t", "ecaresnext26t_32x4d"])
def test_gradients_are_timms(same_as_timm, name):
    same_as_timm(name, (64, 96), gradients=True, **SHORTENED)


def test_all_is_timms_in_float32(same_as_timm):
    same_as_timm("ecaresnet26t", (65, 96), dtype=torch.float32, tolerance=1e-5)


def picture(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def conv_by_definition(x, weight, stride, groups=1):
    """Convolution padded by half its kernel, window by window."""
    k, (batch, _, height, width) = weight.shape[-1], x.shape
    padded = torch.zeros(batch, x.shape[1], height + 2 * (k // 2), width + 2 * (k // 2), dtype=x.dtype)
    padded[:, :, k // 2 : k // 2 + height, k // 2 : k // 2 + width] = x
    rows, columns = math.ceil(height / stride), math.ceil(width / stride)
    out = torch.zeros(batch, len(weight), rows, columns, dtype=x.dtype)
    per_in, per_out = x.shape[1] // groups, len(weight) // groups
    for i in range(rows):
        for j in range(columns):
            window = padded[:, :, i * stride : i * stride + k, j * stride : j * stride + k]
            for g in range(groups):
                part = window[:, g * per_in : (g + 1) * per_in]
                filters = weight[g * per_out : (g + 1) * per_out]
                out[:, g * per_out : (g + 1) * per_out, i, j] = torch.einsum("bckl,dckl->bd", part, filters)
    return out


def conv_norm_by_definition(x, layer):
    x, norm = conv_by_definition(x, layer.conv.weight, layer.conv.stride[0], layer.conv.groups), layer.bn
    x = (x - norm.running_mean[:, None, None]) / (norm.running_var[:, None, None] + norm.eps).sqrt()
    return x * norm.weight[:, None, None] + norm.bias[:, None, None]


@pytest.mark.parametrize("size", [(7, 5), (4, 6), (2, 1)])
@pytest.mark.parametrize(
    "changes",
    [
        dict(block="basic"),
        dict(groups=2, width_per_group=64, avg_down=True),
        dict(avg_down=True, widths=(((3, 5),), ((2, 7), (4, 3)), ((2, 2),), ((3, 3),))),
    ],
    ids=["basic", "groups", "widths"],
)
def test_blocks_are_their_definition(size, changes):
    torch.manual_seed(0)
    backbone = randomised(ResNet(SMALL, **changes).eval())
    block = backbone.stages[1].blocks[0]
    x = picture(2, 16, *size)
    kept, branch = x.clone(), x
    for index, layer in enumerate(block.convs):
        branch = conv_norm_by_definition(branch, layer)
        branch = branch.clamp(min=0) if index < len(block.convs) - 1 else branch
    if changes.get("avg_down"):  # the mean of what a window of 2 x 2 has
        rows, columns = (range(0, side, 2) for side in size)
        means = [[x[:, :, i : i + 2, j : j + 2].mean((2, 3)) for j in columns] for i in rows]
        x = torch.stack([torch.stack(row, 2) for row in means], 2)
    shortcut = conv_norm_by_definition(x, block.shortcut[-1])
    torch.testing.assert_close(block(kept), (branch + shortcut).clamp(min=0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dims", [(6,), (4, 5, 6)])
def test_stem_is_its_definition(dims):
    stem = randomised(ResNetStem(3, dims).eval())
    x = picture(2, 3, 13, 10)
    expected = x
    for layer in stem.convs:
        expected = conv_norm_by_definition(expected, layer).clamp(min=0)
    rows, columns = (range(0, side, 2) for side in expected.shape[2:])
    windows = [
        [expected[:, :, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2].amax((2, 3)) for j in columns] for i in rows
    ]
    expected = torch.stack([torch.stack(row, 2) for row in windows], 2)
    torch.testing.assert_close(stem(x), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
@pytest.mark.parametrize("shape", [(2, 5, 7, 10), (1, 3, 1, 4), (3, 2, 8, 8), (0, 2, 4, 4)])
def test_max_pool_and_its_derivative_are_pytorchs(shape, memory_format):
    results = []
    for pool in (MaxPool(), nn.MaxPool2d(3, stride=2, padding=1)):
        x = picture(*shape).to(memory_format=memory_format).requires_grad_()
        out = pool(x)
        (d_x,) = torch.autograd.grad((out * picture(*out.shape, seed=2)).sum(), x)
        assert not shape[0] or d_x.any()
        results.append((out, d_x))
        with torch.no_grad():
            assert torch.equal(pool(x), out)
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_max_pool_keeps_its_indices_alone():
    kept = []
    x = picture(2, 4, 8, 8).requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        MaxPool()(x)
    assert [(tensor.dtype, tuple(tensor.shape)) for tensor in kept] == [(torch.int64, (2, 4, 4, 4))]


@pytest.mark.parametrize("attn", ["eca", "ela_b", None])
def test_folded_for_inference(attn):
    torch.manual_seed(0)
    backbone = randomised(ResNet(SMALL, attn=attn, avg_down=True))
    with pytest.raises(ValueError, match=r"ResNet: fuse\(\) is for inference .* call .eval\(\) first"):
        backbone.train().fuse()
    fused = backbone.eval().fuse()
    assert not any(isinstance(part, nn.BatchNorm2d) for part in fused.modules())
    x = picture(2, 3, 45, 71)
    for one, other in zip(fused(x), backbone(x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_norms_are_folded_by_the_way_where_maps_are_large():
    """In evaluation the norm of a layer is not called where the map has more values than the weights."""
    torch.manual_seed(0)
    layer = randomised(ResNet(SMALL).eval()).stages[0].blocks[0].convs[-1]
    called = []
    layer.bn.register_forward_hook(lambda *_: called.append(1))
    for size, calls in ((9, 0), (2, 1)):
        x = picture(1, 4, size, size)
        torch.testing.assert_close(layer(x), conv_norm_by_definition(x, layer), rtol=1e-10, atol=1e-10)
        assert len(called) == calls
    layer.bfloat16()(picture(1, 4, 9, 9).bfloat16())
    assert len(called) == 2  # weights of 8 bits are not rounded twice


def test_initial_values():
    torch.manual_seed(0)
    backbone = ResNet(dict(depths=(1, 1, 1, 1), dims=(64, 128, 128, 128)), attn="eca", zero_init_last=True)
    blocks = [stage.blocks[0] for stage in backbone.stages]
    for block in blocks:
        assert not block.convs[-1].bn.weight.any() and (block.convs[0].bn.weight == 1).all()
        for layer in block.convs:
            out, _, k, _ = layer.conv.weight.shape
            assert float(layer.conv.weight.detach().std()) == pytest.approx(math.sqrt(2 / (k * k * out)), rel=0.12)
    assert all((m.weight == 1).all() for m in ResNet(SMALL).modules() if isinstance(m, nn.BatchNorm2d))
    with torch.device("meta"):
        zeroed = {name for name in ResNet.ARCHS if ResNet(name).arch.zero_init_last}
    assert zeroed == set(TIMM)  # the authors' networks start with ones


def test_all_is_channels_last():
    backbone = ResNet(SMALL, attn="eca")
    assert all(
        part.weight.is_contiguous(memory_format=torch.channels_last)
        for part in backbone.modules()
        if isinstance(part, nn.Conv2d)
    )
    for one in backbone(torch.randn(2, 3, 64, 96)):
        assert one.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("attn", ["eca", "ela_t", "ela_s", "se", "cbam", "coord", dict(type="ela_l", norm_groups=4)])
@pytest.mark.parametrize("block", ["basic", "bottleneck"])
def test_any_attention_by_config(attn, block):
    torch.manual_seed(0)
    backbone = ResNet(SMALL, attn=attn, block=block, drop_path_rate=0.2)
    for x in (torch.randn(2, 3, 64, 64), torch.randn(2, 3, 33, 75)):
        maps = backbone.train()(x)
        sum(one.square().mean() for one in maps).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in backbone.parameters())
    assert sum(isinstance(part, ResidualBlock) for part in backbone.modules()) == 5


def test_weights_of_other_eca_kernels_are_refused(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(resnet, "print_log", lambda message, _: said.append(message))
    torch.manual_seed(0)
    path = tmp_path / "weights.pth"
    torch.save(ResNet(SMALL, attn="eca", eca_kernels=(3, 5, 5, 7)).state_dict(), path)
    load = dict(type="Pretrained", checkpoint=str(path))
    with pytest.raises(ValueError, match=r"mis-shaped \(stages.1.blocks.0.join.attn.conv.weight \[1, 1, 5\] in the"):
        ResNet(SMALL, attn="eca", init_cfg=load).init_weights()
    assert said[0] == (
        "ResNet: the weights are of eca_kernels=(3, 5, 5, 7), this network is of (3, 3, 3, 3): name the former in the "
        "backbone's config"
    )
    said.clear()
    ResNet(SMALL, attn="eca", eca_kernels=(3, 5, 5, 7), init_cfg=load).init_weights()
    assert not said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (dict(attn="ecca"), r"ResNet: no attn 'ecca'; there are eca, .*did you mean 'eca'\?"),
        (dict(attn=dict(kernel_size=3)), r"ResNet: attn is None, a name, or a dict with its type, got \{'kernel_size"),
        (dict(attn="eca", eca_kernels=4), "ResNet: ECA: kernel_size 4 must be odd and positive"),
        (dict(attn="eca", eca_kernels=(3, 5)), r"ResNet: eca_kernels \(3, 5\) must be one size, or 4, one a stage"),
        (dict(attn="se", eca_kernels=3), "eca_kernels 3 are of attn='eca', not of 'se'; set eca_kernels=None"),
        (dict(block="wide"), "ResNet: no block 'wide'; there are basic, bottleneck"),
        (dict(block="basic", groups=2), "groups, width_per_group and widths are of block='bottleneck'"),
        (dict(stem_dims=(8, 8)), r"stem_dims \(8, 8\) must be one width \(7 x 7\) or three \(3 x 3\)"),
        (dict(widths=(((1, 1),),) * 4), r"a pair for each block of a stage, \(1, 2, 1, 1\), got \(1, 1, 1, 1\)"),
    ],
    ids=str,
)
def test_messages(changes, message):
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        ResNet(SMALL, **changes)
