"""MaxViT against its definition, its published sizes and timm's."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from networks import count, randomised
from timm.layers import DropPath
from timm.layers.pos_embed_rel import resize_rel_pos_bias_table
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import MaxViT, build_backbone
from bestiary.backbones.layers import Act
from bestiary.backbones.layers.mbconv import MBConv, halved
from bestiary.backbones.layers.squeeze_excite import SqueezeExcite
from bestiary.backbones.mixers import BlockAttention, GridAttention, build_mixer
from bestiary.backbones.mixers.block_grid_attention import RelativePositionMlp, RelativePositionTable, resize_table
from bestiary.checkpoints import build_classifier, convert_state_dict

# Parameters of the classifier of 1,000 classes (timm's, counted; xlarge at 224 from its 21,843 classes) and
# multiply-adds in G at the name's size.
COUNTS = {
    "tiny_tf_224": (30_916_528, 5.552),
    "tiny_tf_384": (30_977_008, 17.393),
    "tiny_tf_512": (31_049_584, 33.250),
    "small_tf_224": (68_927_956, 11.589),
    "small_tf_384": (69_018_676, 35.670),
    "small_tf_512": (69_127_540, 66.907),
    "base_tf_224": (119_467_708, 23.922),
    "base_tf_384": (119_653_468, 73.453),
    "base_tf_512": (119_876_380, 137.411),
    "large_tf_224": (211_785_560, 43.520),
    "large_tf_384": (212_033_240, 132.090),
    "large_tf_512": (212_330_456, 243.926),
    "xlarge_tf_224": (506_987_643 - 20_843 * 1537, 97.287),
    "xlarge_tf_384": (475_323_472, 292.082),
    "xlarge_tf_512": (475_769_296, 532.900),
    "nano_rw_256": (15_451_148, 4.417),
    "tiny_rw_224": (29_057_312, 5.068),
    "rmlp_pico_rw_256": (7_515_980, 1.817),
    "rmlp_nano_rw_256": (15_501_452, 4.432),
    "rmlp_tiny_rw_256": (29_148_896, 6.714),
    "rmlp_small_rw_224": (64_895_044, 10.691),
    "rmlp_base_rw_224": (116_135_788, 23.042),
    "rmlp_base_rw_384": (116_135_788, 70.653),
}
UNPUBLISHED = {"pico_rw_256", "tiny_rw_256", "rmlp_small_rw_256"}  # timm defines them without weights
STRUCTURES = {"tiny_tf_224", "nano_rw_256", "rmlp_nano_rw_256", "rmlp_small_rw_224", "rmlp_base_rw_224"}
SMALL = dict(depths=(1, 1, 2, 1), dims=(32, 64, 96, 128), stem_dims=(16, 24))
TIMM_SMALL = dict(depths=SMALL["depths"], embed_dim=SMALL["dims"], stem_width=SMALL["stem_dims"])


def quick_first(archs, quick):
    return [arch if arch in quick else pytest.param(arch, marks=pytest.mark.slow) for arch in archs]


def test_every_arch_is_counted():
    assert set(MaxViT.ARCHS) == set(COUNTS) | UNPUBLISHED


def one_hot_products(backbone):
    """Multiply-adds by which timm spreads the authors' tables over pairs of tokens; here that is a copy."""
    arch = backbone.arch
    tokens, distances = arch.table_window**2, 2 * arch.table_window - 1
    heads = sum(2 * depth * dim // 32 for depth, dim in zip(arch.depths, arch.dims, strict=True))
    return heads * tokens * distances * (distances + tokens) if arch.style == "tf" else 0


@pytest.mark.parametrize("arch", quick_first(COUNTS, {"tiny_tf_224", "rmlp_pico_rw_256"}))
def test_parameters_and_multiply_adds(arch):
    params, giga = COUNTS[arch]
    side = int(arch.rpartition("_")[2])
    with torch.device("meta"):
        model = build_classifier(f"maxvit_{arch}").eval()
        assert count(model) == params
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            model(torch.empty(1, 3, side, side))
    theirs = giga - one_hot_products(model.backbone) / 1e9
    assert counter.get_total_flops() / 2e9 == pytest.approx(theirs, rel=0.001)


# Every name of timm's, narrow and shallow: what a name says beside depths, widths and windows, number for number.
@pytest.mark.parametrize("arch", quick_first(MaxViT.ARCHS, STRUCTURES))
def test_features_and_logits_are_timms(arch, same_as_timm):
    changes = dict(SMALL, table_window=(2, 3)) if MaxViT.ARCHS[arch].get("rel_pos") != "mlp" else dict(SMALL)
    hidden = MaxViT.head(arch)["type"] == "NormMlpHead"
    timm_kwargs = dict(TIMM_SMALL, img_size=(64, 96), **(dict(head_hidden_size=128) if hidden else {}))
    # timm has the logarithms of the distances in float32 whatever the weights are.
    same_as_timm(
        f"maxvit_{arch}",
        (64, 96),
        timm_kwargs=timm_kwargs,
        changes=changes,
        tolerance=1e-7 if "rmlp" in arch else 1e-10,
        batch=1,
    )


@pytest.mark.parametrize("arch", ["tiny_tf_224", "nano_rw_256"])
def test_gradients_are_timms(arch, same_as_timm):
    hidden = dict(head_hidden_size=128) if "tf" in arch else {}
    same_as_timm(
        f"maxvit_{arch}",
        (64, 96),
        timm_kwargs=dict(TIMM_SMALL, img_size=(64, 96), **hidden),
        changes=dict(SMALL, table_window=(2, 3)),
        gradients=True,
    )


@pytest.mark.parametrize("gradients", [False, True])
def test_odd_sizes_are_timms_where_it_takes_them(gradients, same_as_timm):
    # It does with windows of one token, which divide every map: convolutions, pools and padding are then compared.
    same_as_timm(
        "maxvit_tiny_tf_224",
        (75, 131),
        timm_kwargs=dict(TIMM_SMALL, head_hidden_size=128, transformer_window_size=(1, 1)),
        changes=dict(SMALL, window_size=1, table_window=1),
        gradients=gradients,
    )


def test_float32_is_timms(same_as_timm):
    same_as_timm(
        "maxvit_tiny_tf_224",
        (64, 64),
        timm_kwargs=dict(TIMM_SMALL, img_size=64, head_hidden_size=128),
        changes=dict(SMALL, table_window=2),
        dtype=torch.float32,
        tolerance=1e-5,
    )


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["tiny_tf_224", "small_tf_224", "nano_rw_256", "rmlp_pico_rw_256"])
def test_whole_at_its_own_size(arch, same_as_timm):
    side = int(arch.rpartition("_")[2])
    same_as_timm(f"maxvit_{arch}", (side, side), tolerance=1e-7 if "rmlp" in arch else 1e-10, batch=1)
    same_as_timm(f"maxvit_{arch}", (side, side), dtype=torch.float32, tolerance=1e-5, batch=1)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["base_tf_384", "large_tf_224", "xlarge_tf_512"])
def test_whole_width_with_fewer_blocks(arch, same_as_timm):
    depths = (1, 1, 1, 1)
    side = int(arch.rpartition("_")[2])
    same_as_timm(f"maxvit_{arch}", (side, side), timm_kwargs=dict(depths=depths), changes=dict(depths=depths), batch=1)


def small(**changes):
    torch.manual_seed(0)
    return MaxViT("tiny_tf_224", **{**SMALL, **changes})


@pytest.mark.parametrize(("size", "resize"), [((64, 96), "geometric"), ((256, 288), "geometric")])
def test_tables_serve_other_sizes_as_timms_do(size, resize):
    theirs = timm.create_model("maxvit_tiny_tf_224", **dict(TIMM_SMALL, head_hidden_size=128)).eval()
    ours = build_classifier("maxvit_tiny_tf_224", like="timm", out_indices=None, **SMALL).eval()
    weights = convert_state_dict(theirs.state_dict(), "maxvit_tiny_tf_224", "timm", "bestiary", **SMALL)
    assert not any(ours.load_state_dict(weights, strict=False))
    for table in [p for name, p in ours.named_parameters() if name.endswith(".table")]:
        nn.init.normal_(table, std=2.0)  # 0.02 would hide them
    theirs.load_state_dict(convert_state_dict(ours.state_dict(), "maxvit_tiny_tf_224", "bestiary", "timm", **SMALL))
    theirs.set_input_size(size)
    x = torch.randn(1, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        features, maps = theirs.forward_intermediates(x)[1][1:], ours.backbone(x)
        ours.backbone.stages[0].blocks[0].layers[0].token_mixer.rel_pos.resize = "bilinear"
        other = ours.backbone(x)
    for one, theirs_now in zip(maps, features, strict=True):
        assert (one - theirs_now).abs().max() <= 2e-5 * theirs_now.abs().max()
    assert (other[0] - maps[0]).abs().max() > 1e-3


@pytest.mark.parametrize(("old", "new"), [((7, 7), (12, 12)), ((7, 7), (2, 3)), ((12, 12), (7, 10)), ((7, 5), (40, 1))])
def test_resized_tables(old, new):
    table = torch.randn(2, 2 * old[0] - 1, 2 * old[1] - 1, generator=torch.Generator().manual_seed(0))
    size = (2 * new[0] - 1, 2 * new[1] - 1)
    even = F.interpolate(table.double()[None], size, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(resize_table(table.double(), new), even)
    theirs = resize_rel_pos_bias_table(table, new, (2, *size))
    torch.testing.assert_close(resize_table(table, new, "geometric"), theirs, rtol=1e-4, atol=1e-4)
    assert resize_table(table, old) is table


def bias_by_definition(table, query, key):
    """The entry of key less query, of a table whose middle is distance 0."""
    middle = [side // 2 for side in table.shape[1:]]
    return table[:, key[0] - query[0] + middle[0], key[1] - query[1] + middle[1]]


def attention_by_loops(mixer, x, window, places):
    """Padded map, masked softmax. `places`: side, window -> padded side, and of a coordinate its group and place."""
    batch, height, width, dim = x.shape
    heads = mixer.num_heads
    q, k, v = (x @ mixer.qkv.weight.T + mixer.qkv.bias).reshape(batch, height, width, 3, heads, -1).unbind(3)
    table = resize_table(mixer.rel_pos.table, window)
    (tall, row), (wide, column) = places(height, window[0]), places(width, window[1])
    out = torch.zeros_like(q)
    for i in range(height):
        for j in range(width):
            logits, values = [], []
            for a in range(tall):
                for b in range(wide):
                    if (row(a)[0], column(b)[0]) != (row(i)[0], column(j)[0]):
                        continue
                    real = a < height and b < width
                    bias = bias_by_definition(table, (row(i)[1], column(j)[1]), (row(a)[1], column(b)[1]))
                    at = (a, b) if real else (0, 0)
                    score = (q[:, i, j] * k[:, at[0], at[1]]).sum(-1) / math.sqrt(dim // heads) + bias
                    logits.append(score if real else torch.full_like(score, -math.inf))
                    values.append(v[:, at[0], at[1]])
            weights = torch.stack(logits).softmax(0)
            out[:, i, j] = (weights[..., None] * torch.stack(values)).sum(0)
    return out.flatten(3) @ mixer.proj.weight.T + mixer.proj.bias


def block_places(side, window):
    return math.ceil(side / window) * window, lambda at: (at // window, at % window)


def grid_places(side, window):
    step = math.ceil(side / window)
    return step * window, lambda at: (at % step, at // step)


@pytest.mark.parametrize("shape", [(2, 6, 4, 6), (1, 5, 7, 6), (2, 7, 2, 6), (1, 1, 8, 6)])
@pytest.mark.parametrize("arguments", [dict(window_size=3), dict(window_size=(2, 4)), dict(num_windows=2)])
@pytest.mark.parametrize(("kind", "places"), [(BlockAttention, block_places), (GridAttention, grid_places)])
def test_attention_is_its_definition(kind, places, arguments, shape):
    mixer = randomised(kind(6, head_dim=3, table_window=3, **arguments))
    x = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    window = tuple(math.ceil(side / 2) for side in shape[1:3]) if "num_windows" in arguments else mixer.window_size
    x.requires_grad_()
    got, wanted = mixer(x), attention_by_loops(mixer, x, window, places)
    torch.testing.assert_close(got, wanted, rtol=1e-10, atol=1e-10)
    weight = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(2))
    inputs = (x, *mixer.parameters())
    for one, other in zip(*(torch.autograd.grad((out * weight).sum(), inputs) for out in (got, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_an_mlp_for_the_biases():
    mlp = randomised(RelativePositionMlp(2, hidden_dim=5)).eval()
    bias = mlp((7, 7), (2, 3))
    assert torch.equal(bias, mlp((2, 3), (2, 3)))
    for query in range(6):
        for key in range(6):
            distance = torch.tensor([query // 3 - key // 3, query % 3 - key % 3], dtype=torch.float64)
            log = distance.sign() * (1 + distance.abs()).log()
            hidden = (mlp.fc1.weight @ log + mlp.fc1.bias).clamp_min(0)
            torch.testing.assert_close(bias[:, query, key], mlp.fc2.weight @ hidden + mlp.fc2.bias)


def test_a_changed_table_shows_at_once():
    mixer = BlockAttention(8, num_windows=2, head_dim=4, table_window=3).eval()
    x = torch.randn(1, 8, 8, 8)
    before = mixer(x)
    with torch.no_grad():
        mixer.rel_pos.table.normal_(std=3.0)
    assert not torch.allclose(mixer(x), before, atol=1e-3)


@pytest.mark.parametrize("kind", ["BlockAttention", "GridAttention"])
def test_mixers_take_any_map(kind):
    for shape in ((2, 9, 5, 8), (1, 1, 1, 8), (0, 3, 4, 8)):
        assert build_mixer(dict(type=kind, head_dim=4), 8)(torch.randn(shape)).shape == shape
    for arguments, message in (
        (dict(head_dim=3), f"{kind}: dim 8 is not divisible by head_dim 3"),
        (dict(window_size=0), f"{kind}: window_size 0 must be a number of tokens, or two of them, of at least 1"),
        (dict(window_size=(3, 4, 5)), rf"{kind}: window_size \(3, 4, 5\) must be a number"),
        (dict(table_window=(0, 3)), rf"{kind}: table_window \(0, 3\) must be a number"),
        (dict(num_windows=0), f"{kind}: num_windows 0 must be at least 1"),
        (dict(table_resize="cubic"), f"{kind}: no table_resize 'cubic'; there are bilinear, geometric"),
        (dict(rel_pos="none"), f"{kind}: no rel_pos 'none'; there are table, mlp"),
    ):
        with pytest.raises(ValueError, match=message):
            build_mixer(dict(type=kind, **{"head_dim": 4, **arguments}), 8)


def tensorflow_same(x, kernel, stride):
    """(B, C, H, W) padded as TensorFlow does: what is missing, the smaller half first."""
    pads = []
    for side in (x.shape[3], x.shape[2]):
        missing = max((math.ceil(side / stride) - 1) * stride + kernel - side, 0)
        pads += [missing // 2, missing - missing // 2]
    return F.pad(x, pads)


def mbconv_by_definition(conv, x, stride, act, same):
    """Step by step on (B, C, H, W), every norm by its formula."""

    def norm(bn, x):
        mean, var = bn.running_mean, bn.running_var
        if bn.training:
            mean, var = x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)
        shape = (1, -1, 1, 1)
        scaled = (x - mean.view(shape)) / (var.view(shape) + bn.eps).sqrt()
        return scaled * bn.weight.view(shape) + bn.bias.view(shape)

    def pointwise(layer, x):
        x = torch.einsum("oc,bchw->bohw", layer.weight, x)
        return x if layer.bias is None else x + layer.bias.view(1, -1, 1, 1)

    y = act(norm(conv.norm1, pointwise(conv.expand, norm(conv.pre_norm, x))))
    y = tensorflow_same(y, 3, stride) if same else F.pad(y, (1, 1, 1, 1))
    rows, columns = (math.ceil(side / stride) for side in x.shape[2:])
    taps = [
        conv.depthwise.weight[:, 0, i, j].view(1, -1, 1, 1)
        * y[:, :, i : i + stride * rows : stride, j : j + stride * columns : stride][:, :, :rows, :columns]
        for i in range(3)
        for j in range(3)
    ]
    y = act(norm(conv.norm2, sum(taps)))
    gate = y.mean((2, 3)) @ conv.se.fc1.weight.T + conv.se.fc1.bias
    gate = (gate * gate.sigmoid()) @ conv.se.fc2.weight.T + conv.se.fc2.bias
    y = pointwise(conv.project, y * gate.sigmoid()[:, :, None, None])
    if stride == 2:
        windows = [
            [x[:, :, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2].mean((2, 3)) for j in range(columns)] for i in range(rows)
        ]
        x = torch.stack([torch.stack(row, -1) for row in windows], -2)  # slices end at the map's end
        x = x if isinstance(conv.shortcut, nn.Identity) else pointwise(conv.shortcut, x)
    return x + y


def tanh_gelu(x):
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


@pytest.mark.parametrize("size", [(6, 4), (5, 7), (4, 5), (1, 2)])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(("widths", "stride", "same"), [((4, 4), 1, True), ((4, 6), 2, True), ((4, 4), 2, False)])
def test_bottleneck_is_its_definition(widths, stride, same, training, size):
    act = "gelu_tanh" if same else "silu"
    conv = randomised(MBConv(*widths, stride, hidden_dim=7, se_dim=3, act=act, bias=same, same=same)).train(training)
    x = torch.randn(2, *size, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    function = tanh_gelu if same else lambda x: x * x.sigmoid()
    wanted = mbconv_by_definition(conv, x.permute(0, 3, 1, 2), stride, function, same).permute(0, 2, 3, 1)
    got = conv(x)
    torch.testing.assert_close(got, wanted, rtol=1e-9, atol=1e-9)
    weight = torch.randn(got.shape, dtype=got.dtype, generator=torch.Generator().manual_seed(2))
    inputs = (x, *conv.parameters())
    for one, other in zip(*(torch.autograd.grad((out * weight).sum(), inputs) for out in (got, wanted)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-7)
    with torch.no_grad():  # in place, and by fused steps in float32
        torch.testing.assert_close(conv(x), wanted, rtol=1e-9, atol=1e-9)
        assert (conv.float()(x.float()) - wanted).abs().max() <= 2e-5 * wanted.abs().max()


def test_bottleneck_leaves_its_input_alone():
    for training in (False, True):
        conv, x = MBConv(4, 4, 1, 8, 2).train(training), torch.randn(2, 5, 6, 4)
        before = x.clone()
        with torch.no_grad():
            conv(x)
        assert torch.equal(x, before)


def test_the_shortcuts_mean_of_an_odd_map():
    x = torch.arange(1.0, 10.0).view(1, 3, 3, 1)
    assert halved(x).flatten().tolist() == [3.0, 4.5, 7.5, 9.0]  # of what is there, as in TensorFlow
    assert halved(x, count_padding=True).flatten().tolist() == [3.0, 2.25, 3.75, 2.25]  # as in timm


def test_activations():
    x = torch.randn(50, dtype=torch.float64)
    for name, wanted in (
        ("gelu", x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))),
        ("gelu_tanh", tanh_gelu(x)),
        ("silu", x * x.sigmoid()),
    ):
        torch.testing.assert_close(Act(name)(x.clone().requires_grad_()), wanted)
        own = x.clone()
        torch.testing.assert_close(Act(name)(own), wanted)
        assert torch.equal(own, Act(name)(x.clone()))  # written over
    with pytest.raises(ValueError, match="Act: no activation 'relu'; there are gelu, gelu_tanh, silu"):
        Act("relu")


@pytest.mark.parametrize(("changes", "window"), [({}, (3, 4)), (dict(window_size=2), (2, 2))])
def test_follows_the_picture_or_keeps_its_windows(changes, window):
    backbone, seen = small(depths=(1, 1, 1, 1), **changes).eval(), []
    for stage in backbone.stages:
        for layer in stage.blocks[0].layers:
            rel_pos = layer.token_mixer.rel_pos
            rel_pos.register_forward_pre_hook(lambda _, args, stage=stage: seen.append((stage, args[0])))
    with torch.no_grad():
        backbone(torch.randn(1, 3, 96, 100))  # ceil(96 / 32), ceil(100 / 32) in every stage
    assert set(seen) == {(stage, window) for stage in backbone.stages}


def test_token_mixers_by_config():
    mixers = [["GridAttention"], ["Identity", "Pooling"], [dict(type="BlockAttention", window_size=5)], []]
    backbone = small(token_mixers=mixers, table_window=3)
    built = [[layer.token_mixer for layer in stage.blocks[0].layers] for stage in backbone.stages]
    assert [[type(mixer).__name__ for mixer in stage] for stage in built] == [
        ["GridAttention"],
        ["Identity", "Pooling"],
        ["BlockAttention"],
        [],
    ]
    assert built[0][0].num_windows == 8 and built[0][0].rel_pos.table.shape == (1, 5, 5)
    assert built[2][0].num_windows is None and built[2][0].window_size == (5, 5)
    assert [tuple(x.shape[2:]) for x in backbone(torch.randn(1, 3, 70, 50))] == [(18, 13), (9, 7), (5, 4), (3, 2)]


def test_drop_path_of_the_authors_and_of_timm():
    for full, last in ((False, 0.4 * 4 / 5), (True, 0.4)):
        backbone = small(drop_path_rate=0.4, full_drop_path=full)
        rates = [
            [module.drop_prob for module in block.modules() if isinstance(module, DropPath)]
            for stage in backbone.stages
            for block in stage.blocks
        ]
        assert all(len(block) == 3 and len(set(block)) == 1 for block in rates)
        assert [block[0] for block in rates] == pytest.approx([last * index / 4 for index in range(5)])


def test_initial_values():
    def deviations(backbone, kind):
        return {name: m.weight.std().item() for name, m in backbone.named_modules() if isinstance(m, kind)}

    authors = small()
    for name, deviation in deviations(authors, nn.Linear).items():
        assert deviation == pytest.approx(0.02, rel=0.25), name
    assert deviations(authors, nn.Conv2d)["stages.3.blocks.0.conv.depthwise"] == pytest.approx(0.02, rel=0.1)
    assert not any(m.bias.any() for m in authors.modules() if isinstance(m, nn.Linear) and m.bias is not None)
    tables = [m.table for m in authors.modules() if isinstance(m, RelativePositionTable)]
    assert len(tables) == 10 and all(table.std().item() == pytest.approx(0.02, rel=0.2) for table in tables)
    timms = small(weight_init="vit_eff")
    conv, linear = deviations(timms, nn.Conv2d), deviations(timms, nn.Linear)
    assert conv["stages.3.blocks.0.conv.depthwise"] == pytest.approx(math.sqrt(2 / 9), rel=0.1)
    assert conv["stem.conv2"] == pytest.approx(math.sqrt(2 / (9 * 24)), rel=0.1)
    assert linear["stages.3.blocks.0.conv.expand"] == pytest.approx(math.sqrt(2 / 512), rel=0.1)
    layer = "stages.3.blocks.0.layers.1"
    assert linear[f"{layer}.token_mixer.qkv"] == pytest.approx(math.sqrt(2 / (128 + 384)), rel=0.1)  # uniform
    bias = timms.get_submodule(f"{layer}.mlp.fc1").bias
    assert 0 < bias.abs().max() < 1e-5 and not timms.get_submodule(f"{layer}.token_mixer.proj").bias.any()
    with torch.device("meta"):
        scaled = build_backbone("maxvit_rmlp_small_rw_224", depths=(1, 1, 1, 1))
    assert scaled.stages[0].blocks[0].layers[0].layer_scale1.scale.shape == (96,)


def test_norms_are_tensorflows():
    paper, timms = small(), small(**MaxViT.like_timm("tiny_tf_224")[0])
    for backbone, momentum in ((paper, 0.01), (timms, 0.1)):
        norms = [m for m in backbone.modules() if isinstance(m, nn.BatchNorm2d)]
        assert len(norms) == 16 and all(m.eps == 1e-3 and m.momentum == momentum for m in norms)
    assert all(m.eps == 1e-5 for m in paper.modules() if isinstance(m, nn.LayerNorm))


def test_squeeze_and_excite_is_as_wide_as_the_output_says():
    for name, widths in (("maxvit_tiny_tf_224", [(16, 256), (32, 512)]), ("maxvit_nano_rw_256", [(16, 256)] * 2)):
        with torch.device("meta"):
            backbone = build_backbone(name, depths=(1, 1, 1, 1))
        assert [m.fc1.weight.shape for m in backbone.modules() if isinstance(m, SqueezeExcite)][:2] == widths


def test_messages():
    for changes, message in (
        (dict(window_size="folow"), "MaxViT: window_size 'folow' must be 'follow', a number of tokens or a pair"),
        (dict(weight_init="xavier"), "MaxViT: no weight_init 'xavier'; there are normal, vit_eff"),
        (dict(style="torch"), "MaxViT: no style 'torch'; there are tf, rw"),
        (dict(head_dim=5), "BlockAttention: dim 32 is not divisible by head_dim 5"),
        (dict(token_mixers=["BlockAttention"]), "MaxViT: token_mixers .* must have 4 entries, one a stage"),
    ):
        with torch.device("meta"), pytest.raises(ValueError, match=message):
            small(**changes)
