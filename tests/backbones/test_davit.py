"""DaViT against its definition, its published sizes and timm's."""

import math

import pytest
import timm
import torch
import torch.nn.functional as F
from networks import randomised
from timm.layers import DropPath
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones import DaViT, PoolFormer
from bestiary.backbones.davit import DaViTBlock, NormedDownsample
from bestiary.backbones.layers import ConvPosEnc
from bestiary.backbones.mixers import ChannelAttention, Identity, Pooling, WindowAttention, build_mixer
from bestiary.checkpoints import build_classifier

# Parameters of timm's model, counted (1,000 classes; Florence-2's towers have none), and billions of multiply-adds.
SIZES = {
    "tiny": (28_360_168, 4.522, 224),
    "small": (49_745_896, 8.773, 224),
    "base": (87_954_408, 15.474, 224),
    "large": (196_811_752, 34.540, 224),
    "huge": (348_922_856, 61.159, 224),
    "giant": (1_406_470_120, 192.785, 224),
    "base_fl": (90_370_048, 189.89, 768),
    "huge_fl": (360_636_416, 743.98, 768),
}
BARE = dict(tiny=27_589_632, small=48_975_360, base=86_927_360)  # without norm and classifier
SHALLOW = dict(depths=(1, 1, 1, 1))
SMALL = dict(depths=(1, 1, 2, 1), dims=(4, 6, 8, 12), num_heads=(1, 2, 2, 3), window_size=3)


def random(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def same(one, other):
    torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_every_arch_has_its_sizes_here():
    assert set(SIZES) == set(DaViT.ARCHS)


@pytest.mark.parametrize("arch", SIZES)
def test_parameters_and_multiply_adds(arch):
    parameters, billions, size = SIZES[arch]
    with torch.device("meta"):
        classifier = build_classifier(f"davit_{arch}").eval()
        picture = torch.empty(1, 3, size, size)
    whole = sum(p.numel() for p in classifier.parameters())
    if arch.endswith("_fl"):
        whole -= sum(p.numel() for p in classifier.head.fc.parameters())
    assert whole == parameters
    assert sum(p.numel() for p in classifier.backbone.parameters()) == BARE.get(
        arch,
        parameters
        - 2 * classifier.backbone.arch.dims[-1]
        - (0 if "_fl" in arch else classifier.head.fc.weight.numel() + 1000),
    )
    with FlopCounterMode(display=False) as counter:
        classifier(picture)
    assert counter.get_total_flops() / 2e9 == pytest.approx(billions, rel=0.005)


def test_initial_values():
    torch.manual_seed(0)
    backbone = DaViT(dict(depths=(1, 1, 1, 1), dims=(32, 64, 96, 128), num_heads=(1, 2, 3, 4)))
    linears = [module for module in backbone.modules() if isinstance(module, nn.Linear)]
    assert len(linears) == 8 * 4
    for module in linears:
        assert 0.018 < module.weight.std() < 0.022 and module.weight.abs().max() < 2.0 and not module.bias.any()
    for module in backbone.modules():
        if isinstance(module, nn.LayerNorm):
            assert module.eps == 1e-5 and (module.weight == 1).all() and not module.bias.any()
        elif isinstance(module, nn.Conv2d):  # PyTorch's own: uniform, as far as one over the root of the inputs
            reach = 1 / math.sqrt(module.weight[0].numel())
            assert 0.9 * reach < module.weight.abs().max() <= reach and module.bias.any()


# Definitions, written out; nothing of them is shared with the code under test.


def linear(x, layer):
    return x @ layer.weight.T + layer.bias


def layer_norm(x, norm):
    mean = x.mean(dim=-1, keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=-1, keepdim=True)
    return (x - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def softmax(x):
    return x.exp() / x.exp().sum(dim=-1, keepdim=True)


def mlp_by_definition(x, mlp):
    hidden = linear(x, mlp.fc1)
    return linear(hidden * 0.5 * (1 + torch.erf(hidden / math.sqrt(2))), mlp.fc2)


def window_attention_by_loops(x, layer, heads, window):
    batch, height, width, channels = x.shape
    head = channels // heads
    padded = x.new_zeros(batch, -(-height // window[0]) * window[0], -(-width // window[1]) * window[1], channels)
    padded[:, :height, :width] = x
    out = torch.empty_like(padded)
    for b in range(batch):
        for top in range(0, padded.shape[1], window[0]):
            for left in range(0, padded.shape[2], window[1]):
                rows, columns = slice(top, top + window[0]), slice(left, left + window[1])
                qkv = linear(padded[b, rows, columns].reshape(-1, channels), layer.qkv)
                parts = []
                for h in range(heads):
                    q, k, v = (qkv[:, part * channels + h * head :][:, :head] for part in range(3))
                    parts.append(softmax(q @ k.T / math.sqrt(head)) @ v)  # the padding takes part
                out[b, rows, columns] = linear(torch.cat(parts, dim=1), layer.proj).view(*window, channels)
    return out[:, :height, :width]


def channel_attention_by_loops(x, layer, heads, form):
    batch, height, width, channels = x.shape
    tokens, head = height * width, channels // heads
    out = torch.empty_like(x)
    for b in range(batch):
        qkv = linear(x[b].reshape(tokens, channels), layer.qkv)
        parts = []
        for h in range(heads):
            q, k, v = (qkv[:, part * channels + h * head :][:, :head] for part in range(3))
            if form == "davit":
                parts.append((softmax((k / math.sqrt(head)).T @ v) @ q.T).T)
            else:
                parts.append((softmax((q / math.sqrt(tokens)).T @ k) @ v.T).T)
        out[b] = linear(torch.cat(parts, dim=1), layer.proj).view(height, width, channels)
    return out


def position_by_loops(x, conv):
    """The input and a depthwise 3 x 3 convolution of it; x (B, H, W, C)."""
    batch, height, width, _ = x.shape
    out = x + conv.bias
    for i in range(height):
        for j in range(width):
            for r in range(3):
                for c in range(3):
                    if 0 <= i + r - 1 < height and 0 <= j + c - 1 < width:
                        out[:, i, j] += conv.weight[:, 0, r, c] * x[:, i + r - 1, j + c - 1]
    return out


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 3, 3, 6), (1, 1, 1, 6), (2, 6, 2, 6)])
@pytest.mark.parametrize(("heads", "window"), [(1, 3), (3, 2), (2, (2, 4))])
def test_window_attention_is_its_definition(shape, heads, window):
    layer = randomised(WindowAttention(6, heads, window))
    x = random(*shape)
    pair = (window, window) if isinstance(window, int) else window
    same(layer(x), window_attention_by_loops(x, layer, heads, pair))


@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 1, 1, 6)])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("form", ["davit", "florence2"])
def test_channel_attention_is_its_definition(shape, heads, form):
    layer = randomised(ChannelAttention(6, heads, form))
    x = random(*shape)
    same(layer(x), channel_attention_by_loops(x, layer, heads, form))


def test_the_released_channel_attention_is_the_papers_with_its_rows_in_turn():
    """q, k, v of the release stand where the paper has V, Q and K."""
    released, paper = randomised(ChannelAttention(8, 2)), randomised(ChannelAttention(8, 2, "florence2"))
    paper.load_state_dict(released.state_dict())
    with torch.no_grad():
        for own, theirs in ((paper.qkv.weight, released.qkv.weight), (paper.qkv.bias, released.qkv.bias)):
            q, k, v = theirs.chunk(3)
            own.copy_(torch.cat([k, v, q]))
    x = random(2, 2, 2, 8)  # as many tokens as channels of a head: both scales are one
    same(paper(x), released(x))


def test_position_is_its_definition():
    layer, x = randomised(ConvPosEnc(5)), random(2, 4, 3, 5)
    same(layer(x), position_by_loops(x, layer.conv))


def test_position_does_not_round_its_input_to_half_precision():
    layer = randomised(ConvPosEnc(5)).float()
    with torch.no_grad():
        layer.conv.weight.mul_(1e-3)
    x = random(2, 4, 3, 5).float()
    wanted = position_by_loops(x.double(), layer.double().conv)
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(x)
    assert out.dtype == torch.float32
    change = wanted - x.double()
    assert (out.double() - wanted).abs().max() < 0.01 * change.abs().max()
    half = layer.bfloat16()(x.bfloat16())  # weights of 0.001 that were added to 1 would be lost
    assert ((half.double() - wanted).abs() <= 2**-7 * wanted.abs() + 0.01 * change.abs().max()).all()


@pytest.mark.parametrize("form", ["window", "channel"])
def test_block_is_its_definition(form):
    mixer = WindowAttention(6, 2, 3) if form == "window" else ChannelAttention(6, 2)
    block = randomised(DaViTBlock(6, mixer, 2.5, drop_path=0.0))
    assert block.mlp.fc1.weight.shape == (15, 6)
    x = random(2, 5, 4, 6)
    wanted = position_by_loops(x, block.cpe1.conv)
    normed = layer_norm(wanted, block.norm1)
    if form == "window":
        wanted = wanted + window_attention_by_loops(normed, mixer, 2, (3, 3))
    else:
        wanted = wanted + channel_attention_by_loops(normed, mixer, 2, "davit")
    wanted = position_by_loops(wanted, block.cpe2.conv)
    wanted = wanted + mlp_by_definition(layer_norm(wanted, block.norm2), block.mlp)
    same(block(x), wanted)


def test_stem_and_downsampling_pad_with_zeros():
    stem, x = randomised(DaViT(SMALL).stem), random(2, 3, 9, 6)
    by_hand = F.conv2d(F.pad(x, (0, 2, 0, 3)), stem.conv.weight, stem.conv.bias, stride=4, padding=3)
    same(stem(x), layer_norm(by_hand.permute(0, 2, 3, 1), stem.norm))
    x = random(2, 5, 3, 4, seed=2)
    for kernel in (2, 3):
        down = randomised(NormedDownsample(4, 6, kernel))
        normed = layer_norm(x, down.norm).permute(0, 3, 1, 2)
        # After the norm: the zeros behind odd sides stay zeros.
        padded = F.pad(normed, (0, 1, 0, 1)) if kernel == 2 else F.pad(normed, (1, 1, 1, 1))
        wanted = F.conv2d(padded, down.conv.weight, down.conv.bias, stride=2).permute(0, 2, 3, 1)
        assert wanted.shape[1:3] == (3, 2)
        same(down(x), wanted)


# timm's models, with their weights copied: tiny whole, and both forms narrow. `slow` tries every name.

NARROW = dict(
    timm_kwargs=dict(depths=(1, 1, 2, 1), embed_dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4)),
    changes=dict(depths=(1, 1, 2, 1), dims=(16, 32, 48, 64), num_heads=(1, 2, 3, 4)),
)


@pytest.mark.parametrize("name", ["davit_tiny", "davit_base_fl"])
@pytest.mark.parametrize("size", [(64, 64), (83, 117), (224, 224)])
def test_narrow_ones_are_timms(same_as_timm, name, size):
    same_as_timm(name, size, **NARROW)
    same_as_timm(name, size, gradients=True, **NARROW)
    same_as_timm(name, size, dtype=torch.float32, tolerance=1e-5, **NARROW)
    same_as_timm(name, size, gradients=True, dtype=torch.float32, tolerance=1e-5, **NARROW)


def test_tiny_is_timms(same_as_timm):
    same_as_timm("davit_tiny", (50, 65))
    same_as_timm("davit_tiny", (64, 96), dtype=torch.float32, tolerance=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("arch", SIZES)
def test_every_model_is_timms(same_as_timm, arch):
    """Whole up to base, at the default size, too; wider ones with one pair a stage; giant's gradients need 20 GB."""
    whole = arch in ("tiny", "small", "base", "base_fl")
    kwargs = {} if whole else dict(timm_kwargs=SHALLOW, changes=SHALLOW)
    same_as_timm(f"davit_{arch}", (83, 117), batch=1, **kwargs)
    if whole:
        same_as_timm(f"davit_{arch}", (224, 224), batch=1, **kwargs)
        same_as_timm(f"davit_{arch}", (224, 224), batch=1, dtype=torch.float32, tolerance=1e-5, **kwargs)
    if arch != "giant":
        same_as_timm(f"davit_{arch}", (64, 96), batch=1, gradients=True, **kwargs)


def rates(backbone):
    """Of each block, both branches."""
    found = []
    for stage in backbone.stages:
        for block in stage.blocks:
            found.append({module.drop_prob for module in block.modules() if isinstance(module, DropPath)})
    assert all(len(several) == 1 for several in found)
    return [several.pop() for several in found]


def test_drop_path_of_the_release_counts_on_and_timms_goes_by_pairs():
    depths, last = (1, 2, 3, 1), 0.28
    counted = rates(DaViT({**SMALL, "depths": depths}, drop_path_rate=last))
    assert counted == pytest.approx([last * block / 13 for block in range(14)])
    paired = rates(DaViT({**SMALL, "depths": depths}, drop_path_rate=last, shared_drop_path=True))
    assert paired == pytest.approx([last * (block // 2) / 6 for block in range(14)])
    with torch.device("meta"):
        theirs = timm.create_model("davit_tiny", depths=depths, drop_path_rate=last)
    wanted = [
        getattr(block.drop_path1, "drop_prob", 0.0)
        for stage in theirs.stages
        for pair in stage.blocks
        for block in pair
    ]
    assert paired == pytest.approx(wanted)
    assert DaViT.like_timm("tiny") == (dict(shared_drop_path=True), {})


def test_out_norm_is_a_layer_norm_of_every_map():
    with_norm = randomised(DaViT(SMALL, out_indices=(1, 3)))
    without = DaViT(SMALL, out_indices=(1, 3), out_norm=False).double()
    assert not len(without.norms)
    without.load_state_dict({k: v for k, v in with_norm.state_dict().items() if not k.startswith("norms.")})
    x = random(2, 3, 37, 41)
    for stage, one, other in zip("13", with_norm(x), without(x), strict=True):
        same(one, layer_norm(other.permute(0, 2, 3, 1), with_norm.norms[stage]).permute(0, 3, 1, 2))


def kinds(backbone):
    return [[type(block.token_mixer) for block in stage.blocks] for stage in backbone.stages]


def test_token_mixers_by_config():
    usual = [WindowAttention, ChannelAttention]
    assert kinds(DaViT(SMALL)) == [usual, usual, usual * 2, usual]
    backbone = DaViT(
        SMALL,
        token_mixers=[
            "Pooling",
            ["Identity", dict(type="WindowAttention", window_size=2), "bestiary.ChannelAttention"],
            ["ChannelAttention"],
            dict(type=WindowAttention, num_heads=4),
        ],
        channel_form="florence2",
    )
    assert kinds(backbone) == [
        [Pooling] * 2,
        [Identity, WindowAttention, ChannelAttention],
        [ChannelAttention] * 2,
        [WindowAttention] * 2,
    ]
    of_window, of_channel = (backbone.stages[1].blocks[index].token_mixer for index in (1, 2))
    assert (of_window.window_size, of_window.num_heads) == ((2, 2), 2)
    assert (of_channel.channel_form, of_channel.num_heads) == ("florence2", 2)
    last = backbone.stages[3].blocks[1].token_mixer
    assert (last.window_size, last.num_heads) == ((3, 3), 4)  # the arch's window, the dict's heads
    assert len(rates(backbone)) == 9 == sum(backbone.num_blocks(stage) for stage in range(4))
    assert [m.shape[1:] for m in backbone(torch.randn(1, 3, 45, 70))] == [(4, 12, 18), (6, 6, 9), (8, 3, 5), (12, 2, 3)]
    other = PoolFormer(
        dict(depths=(1, 1, 1, 1), dims=(4, 6, 8, 12), layer_scale_init=1.0), token_mixers=("WindowAttention",) * 4
    )
    assert other.stages[0].blocks[0].token_mixer.num_heads == 1


@pytest.mark.parametrize("name", ["WindowAttention", "ChannelAttention"])
def test_mixers_keep_shape_and_take_any_size(name):
    for shape in ((2, 5, 7, 64), (1, 2, 3, 64), (0, 4, 4, 64)):
        assert build_mixer(name, 64)(torch.randn(shape)).shape == shape
    assert build_mixer(name, 96).num_heads == 3 and build_mixer(name, 20).num_heads == 1


def test_messages():
    for mixer, arguments, message in (
        (WindowAttention, dict(num_heads=4), "WindowAttention: num_heads 4 does not divide the 6 channels"),
        (ChannelAttention, dict(num_heads=4), "ChannelAttention: num_heads 4 does not divide the 6 channels"),
        (WindowAttention, dict(window_size=0), "window_size 0 must be a side, or height and width, of 1 up"),
        (WindowAttention, dict(window_size=(7, 7, 7)), r"window_size \(7, 7, 7\) must be a side, or height and width"),
        (ChannelAttention, dict(channel_form="v2"), "no channel_form 'v2'; there are davit, florence2"),
    ):
        with pytest.raises(ValueError, match=message):
            mixer(6, **arguments)
    with pytest.raises(ValueError, match="ConvPosEnc: kernel_size 4 must be odd"):
        ConvPosEnc(6, 4)
    with pytest.raises(ValueError, match="DaViT: token_mixers .* must have 4 entries, one a stage"):
        DaViT(SMALL, token_mixers=("WindowAttention", "ChannelAttention"))
    with pytest.raises(ValueError, match=r"no token mixer 'WindowAttentoin'; .*did you mean 'WindowAttention'\?"):
        DaViT(SMALL, token_mixers=("WindowAttentoin",) * 4)
