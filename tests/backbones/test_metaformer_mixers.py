"""Token mixers and activations of the MetaFormer families against their definitions in float64, and mixers by name."""

import math

import pytest
import torch
from networks import randomised
from torch import nn

from bestiary.backbones import MetaFormer, PoolFormer, build_backbone
from bestiary.backbones.layers import StarMlp, StarReLU
from bestiary.backbones.mixers import Identity, Pooling, RandomMixing, SelfAttention, SepConv, build_mixer
from bestiary.registry import MIXERS


def draw(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def star(x, act):
    return act.scale * torch.where(x > 0, x * x, 0.0) + act.bias


def same_with_gradients(module, definition, x):
    """Outputs and gradients of input and parameters; and the output where no gradient is recorded, a way of its own."""
    weight, results = draw(*definition(x).shape, seed=2), []
    for run in (module, definition):
        x = x.detach().requires_grad_()
        out = run(x)
        results.append((out, *torch.autograd.grad((out * weight).sum(), [x, *module.parameters()])))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        torch.testing.assert_close(module(x), results[1][0], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("shape", [(2, 5, 7, 3), (1, 1, 1, 2), (4, 6)])
def test_star_relu_is_its_definition(shape):
    act = randomised(StarReLU())
    same_with_gradients(act, lambda x: star(x, act), draw(*shape))


def test_star_relu_begins_as_a_squared_relu_and_keeps_its_input():
    act, x = StarReLU(), draw(3, 4, 5, 6)
    before = x.clone()
    with torch.no_grad():
        torch.testing.assert_close(act.double()(x), before.clamp(min=0) ** 2)
        assert torch.equal(x, before)
    other = dict(StarReLU(0.8944, -0.4472).state_dict())
    assert other == dict(scale=torch.tensor([0.8944]), bias=torch.tensor([-0.4472]))


def test_star_mlp_is_its_definition():
    mlp = randomised(StarMlp(6, 15))
    assert {name: tuple(p.shape) for name, p in mlp.named_parameters()} == {
        "fc1.weight": (15, 6),
        "act.scale": (1,),
        "act.bias": (1,),
        "fc2.weight": (6, 15),
    }
    same_with_gradients(mlp, lambda x: star(x @ mlp.fc1.weight.T, mlp.act) @ mlp.fc2.weight.T, draw(2, 5, 3, 6))


def depthwise_by_loops(x, kernel):
    """x (B, H, W, C), kernel (C, 1, k, k), zeros beyond the border."""
    batch, height, width, _ = x.shape
    reach, rows = kernel.shape[-1] // 2, []
    for i in range(height):
        for j in range(width):
            total = torch.zeros_like(x[:, 0, 0])
            for r in range(max(i - reach, 0), min(i + reach + 1, height)):
                for c in range(max(j - reach, 0), min(j + reach + 1, width)):
                    total = total + x[:, r, c] * kernel[:, 0, r - i + reach, c - j + reach]
            rows.append(total)
    return torch.stack(rows, dim=1).view(batch, height, width, -1)


@pytest.mark.parametrize("shape", [(2, 5, 8, 4), (1, 1, 1, 4)])
@pytest.mark.parametrize("arguments", [dict(), dict(expansion_ratio=1.5, kernel_size=3)])
def test_sep_conv_is_its_definition(shape, arguments):
    mixer = randomised(SepConv(4, **arguments))
    assert mixer.dwconv.weight.shape == ((8, 1, 7, 7) if not arguments else (6, 1, 3, 3))
    assert {name for name, _ in mixer.named_parameters()} == {
        *(f"{layer}.weight" for layer in ("pwconv1", "dwconv", "pwconv2")),
        "act1.scale",
        "act1.bias",
    }

    def definition(x):
        hidden = star(x @ mixer.pwconv1.weight.T, mixer.act1)
        return depthwise_by_loops(hidden, mixer.dwconv.weight) @ mixer.pwconv2.weight.T

    same_with_gradients(mixer, definition, draw(*shape))


def attention_by_loops(x, mixer, heads, head_dim):
    """Softmax attention of every token to all, a head at a time; x (B, H, W, C)."""
    out = []
    for picture in x.flatten(1, 2):
        qkv = picture @ mixer.qkv.weight.T + (0 if mixer.qkv.bias is None else mixer.qkv.bias)
        q, k, v = qkv.chunk(3, dim=-1)
        mixed = []
        for head in range(heads):
            at = slice(head * head_dim, (head + 1) * head_dim)
            logits = q[:, at] @ k[:, at].T / math.sqrt(head_dim)
            weights = torch.exp(logits - logits.max(dim=1, keepdim=True).values)
            mixed.append(weights / weights.sum(dim=1, keepdim=True) @ v[:, at])
        out.append(torch.cat(mixed, dim=1) @ mixer.proj.weight.T + (0 if mixer.proj.bias is None else mixer.proj.bias))
    return torch.stack(out).view(x.shape)


@pytest.mark.parametrize(
    ("dim", "arguments", "heads", "head_dim"),
    [
        (64, dict(), 2, 32),
        (12, dict(), 1, 32),  # no head of 32 fits: one of 32 all the same, as in the release
        (12, dict(num_heads=3, head_dim=4, qkv_bias=True, proj_bias=True), 3, 4),
    ],
)
def test_self_attention_is_its_definition(dim, arguments, heads, head_dim):
    mixer = randomised(SelfAttention(dim, **arguments))
    assert mixer.num_heads == heads and mixer.qkv.weight.shape == (3 * heads * head_dim, dim)
    assert (mixer.qkv.bias is None) == (mixer.proj.bias is None) == (not arguments)
    same_with_gradients(mixer, lambda x: attention_by_loops(x, mixer, heads, head_dim), draw(2, 3, 5, dim) * 0.3)


def test_random_mixing_is_its_definition():
    torch.manual_seed(0)
    mixer, x = RandomMixing(6, num_tokens=15).double(), draw(2, 3, 5, 6)
    matrix = mixer.random_matrix
    assert not list(mixer.parameters()) and list(mixer.state_dict()) == ["random_matrix"]
    assert matrix.shape == (15, 15) and (matrix > 0).all()
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(15, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    spread = matrix.max(dim=1).values / matrix.min(dim=1).values  # softmax of uniform values
    assert (spread < math.e).all() and (spread > 1.5).all()
    expected = torch.einsum("mn,bnc->bmc", matrix, x.reshape(2, 15, 6)).reshape(2, 3, 5, 6)
    torch.testing.assert_close(mixer(x), expected)


@pytest.mark.parametrize(
    ("name", "offered"),
    [
        ("Identity", {}),
        ("Pooling", {}),
        ("SepConv", {}),
        ("SelfAttention", {}),
        ("RandomMixing", dict(num_tokens=1)),
    ],
)
def test_mixers_keep_shape_and_take_any_size(name, offered):
    assert name in MIXERS.module_dict
    for shape in ((2, 5, 7, 6), (1, 2, 3, 6), (0, 4, 4, 6)):
        x = torch.randn(shape)
        if offered:
            offered = dict(num_tokens=shape[1] * shape[2])
        assert build_mixer(name, 6, **offered)(x).shape == shape
    x = torch.randn(2, 3, 3, 6)
    assert torch.equal(Identity(6)(x), x)


def test_messages():
    with pytest.raises(ValueError, match="DepthwiseConv: kernel_size 4 must be odd"):
        SepConv(8, kernel_size=4)
    with pytest.raises(ValueError, match=r"RandomMixing: it needs num_tokens, H \* W of its map, .*img_size"):
        MetaFormer(dict(depths=(1, 1, 1, 1), dims=(4, 4, 4, 4)), token_mixers=["RandomMixing"] * 4)
    with pytest.raises(
        ValueError, match="RandomMixing: its matrix is for 6 tokens, but this map has 2 x 4 = 8: give .* or build it"
    ):
        RandomMixing(3, num_tokens=6)(torch.randn(1, 2, 4, 3))


class Affine(nn.Module):
    def __init__(self, dim, shift=0.0):
        super().__init__()
        self.weight, self.shift = nn.Parameter(torch.ones(dim)), shift

    def forward(self, x):
        return x * self.weight + self.shift


def test_token_mixers_by_config():
    arch = dict(depths=(1, 1, 1, 2), dims=(4, 6, 8, 10), layer_scale_init=1.0)
    mixers = ["Identity", dict(type="Pooling", pool_size=5), dict(type=Affine, shift=2.0), "bestiary.Pooling"]
    backbone = PoolFormer(arch, token_mixers=mixers)
    built = [stage.blocks[-1].token_mixer for stage in backbone.stages]
    assert [type(mixer) for mixer in built] == [Identity, Pooling, Affine, Pooling]
    assert built[1].pool_size == 5 and built[2].shift == 2.0 and built[2].weight.shape == (8,)
    other = PoolFormer(arch)
    other.load_state_dict(backbone.state_dict(), strict=False)
    x = torch.randn(1, 3, 64, 64)
    assert not torch.allclose(backbone(x)[0], other(x)[0])


def test_mixers_by_names_in_snake_case():
    snake = {
        "Pooling": "pooling",
        "RandomMixing": "random_mixing",
        "SelfAttention": "self_attention",
        "SepConv": "sep_conv",
        "SingleHeadAttention": "single_head_attention",
    }
    for name, alias in snake.items():
        offered = dict(num_tokens=4)
        assert type(build_mixer(alias, 8, **offered)) is MIXERS.get(name) is type(build_mixer(name, 8, **offered))
        assert type(build_mixer(dict(type=alias), 8, **offered)) is MIXERS.get(name)
    with torch.device("meta"):
        backbone = build_backbone("metaformer_s18", token_mixers=["pooling", "sep_conv", "identity", "self_attention"])
    built = [type(stage.blocks[0].token_mixer) for stage in backbone.stages]
    assert built == [Pooling, SepConv, Identity, SelfAttention]


def test_unknown_token_mixers():
    for cfg, message in (
        ("Poolin", r"no token mixer 'Poolin'; there are .*Identity, .*Pooling.*did you mean 'Pooling'\?"),
        ("self_atention", r"no token mixer 'self_atention'.*did you mean 'SelfAttention'\?"),
        (dict(type="xyz"), "no token mixer 'xyz'"),
        (dict(pool_size=3), "a registered name or a dict with its type, got {'pool_size': 3}"),
    ):
        with pytest.raises(ValueError, match=message):
            build_mixer(cfg, 8)
    for mixers in (["Pooling"] * 3, "Pooling"):
        with pytest.raises(ValueError, match="PoolFormer: token_mixers .* must have 4 entries, one a stage"):
            PoolFormer("s12", token_mixers=mixers)
