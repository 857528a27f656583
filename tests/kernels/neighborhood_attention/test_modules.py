"""NeighborhoodAttention1D, 2D and 3D."""

import pytest
import torch

from bestiary.kernels import NeighborhoodAttention1D, NeighborhoodAttention2D, NeighborhoodAttention3D
from bestiary.kernels.neighborhood_attention.reference import neighborhood_attention_reference
from bestiary.kernels.neighborhood_attention.windows import Window

MODULES = {1: NeighborhoodAttention1D, 2: NeighborhoodAttention2D, 3: NeighborhoodAttention3D}


def by_hand(module, x, window, heads, scale=None):
    """The layer as a formula, from its state dict."""
    state = {name: value.double() for name, value in module.state_dict().items()}
    packed = x.double() @ state["qkv.weight"].T + state.get("qkv.bias", 0)
    width = x.shape[-1] // heads
    q, k, v = packed.unflatten(-1, (3, heads, width)).unbind(-3)
    scale = width**-0.5 if scale is None else scale
    out, _ = neighborhood_attention_reference(q, k, v, state.get("rpb"), None, None, window, scale)
    return out.flatten(-2) @ state["proj.weight"].T + state["proj.bias"]


@pytest.mark.parametrize("axes", MODULES)
def test_the_layer_is_its_formula(axes):
    spatial, k, s, d = (9, 8, 7)[:axes], (4, 3, 2)[:axes], (3, 2, 1)[:axes], (2, 1, 3)[:axes]
    module = MODULES[axes](18, 3, k, s, d, False, True, 0.4, rel_pos_bias=True)
    torch.nn.init.normal_(module.rpb)
    x = torch.randn(2, *spatial, 18)
    wanted = by_hand(module, x, Window(k, s, d, (False,) * axes), 3, 0.4)
    torch.testing.assert_close(module(x).double(), wanted, rtol=0, atol=2e-6)


def test_parameters_bear_the_names_of_the_released_weights():
    module = NeighborhoodAttention2D(24, 3, 7, rel_pos_bias=True)
    shapes = {name: tuple(value.shape) for name, value in module.state_dict().items()}
    wanted = {
        "qkv.weight": (72, 24),
        "qkv.bias": (72,),
        "rpb": (3, 13, 13),
        "proj.weight": (24, 24),
        "proj.bias": (24,),
    }
    assert shapes == wanted
    module.load_state_dict({name: torch.randn(shape) for name, shape in wanted.items()})
    assert set(NeighborhoodAttention1D(24, 3, 7, qkv_bias=False).state_dict()) == set(wanted) - {"rpb", "qkv.bias"}


def test_queries_keys_and_values_are_not_copied(monkeypatch):
    module, seen = NeighborhoodAttention2D(24, 4, 3, num_kv_heads=2), []
    attention = type(module).__mro__[1].forward.__globals__["neighborhood_attention"]

    def spy(*args, **options):
        seen.extend(args[:3])
        return attention(*args, **options)

    monkeypatch.setitem(type(module).__mro__[1].forward.__globals__, "neighborhood_attention", spy)
    assert module(torch.randn(2, 5, 6, 24)).shape == (2, 5, 6, 24)
    assert [tuple(t.shape) for t in seen] == [(2, 5, 6, 4, 6), (2, 5, 6, 2, 6), (2, 5, 6, 2, 6)]
    assert len({t.untyped_storage().data_ptr() for t in seen}) == 1
    assert [t.storage_offset() for t in seen] == [0, 24, 36]


@pytest.mark.parametrize("spatial", [(5, 9), (3, 20), (1, 1)])
def test_small_maps_are_padded_before_the_projection(spatial):
    """As NATTEN's modules did while the released weights were trained: padding bears the bias and takes part."""
    module = NeighborhoodAttention2D(12, 2, 3, dilation=(2, 4), rel_pos_bias=True)
    torch.nn.init.normal_(module.qkv.bias)
    x = torch.randn(2, *spatial, 12)
    padded = torch.zeros(2, max(6, spatial[0]), max(12, spatial[1]), 12)
    padded[:, : spatial[0], : spatial[1]] = x
    window = Window((3, 3), (1, 1), (2, 4), (False, False))
    wanted = by_hand(module, padded, window, 2)[:, : spatial[0], : spatial[1]]
    found = module(x)
    assert found.shape == x.shape
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-6)


def test_padding_can_be_hidden():
    """A map smaller than the window, masked: plain attention inside every dilation group."""
    module = NeighborhoodAttention2D(12, 2, (3, 5), dilation=(2, 1), small_maps="mask")
    torch.nn.init.normal_(module.qkv.bias)
    x = torch.randn(2, 5, 4, 12, requires_grad=True)
    found = module(x)
    q, k, v = module.qkv(x).unflatten(-1, (3, 2, 6)).unbind(-3)
    for group in range(2):
        part = [t[:, group::2].flatten(1, 2).transpose(1, 2) for t in (q, k, v)]
        out = torch.nn.functional.scaled_dot_product_attention(*part).transpose(1, 2).flatten(-2)
        torch.testing.assert_close(found[:, group::2].flatten(1, 2), module.proj(out), rtol=0, atol=2e-6)
    other = torch.nn.functional.pad(x, (0, 0, 0, 0, 0, 1), value=1.0)
    assert not torch.allclose(module(other)[:, :5], found)  # a sixth row that is there does take part


def test_small_maps_can_be_refused():
    module = NeighborhoodAttention2D(12, 2, 3, dilation=2, small_maps="error")
    with pytest.raises(
        ValueError, match="kernel_size 3 with dilation 2 needs an axis of 6 tokens or more, axis 1 has 5"
    ):
        module(torch.randn(1, 6, 5, 12))


def test_gradients_reach_every_parameter():
    module = NeighborhoodAttention3D(12, 2, (2, 3, 2), dilation=(1, 1, 2), rel_pos_bias=True, num_kv_heads=1)
    x = torch.randn(2, 2, 4, 5, 12, requires_grad=True)
    module(x).pow(2).sum().backward()
    for name, tensor in [("x", x), *module.named_parameters()]:
        assert tensor.grad is not None and tensor.grad.abs().sum() > 0, name


def test_dropout_of_the_projection():
    module, x = NeighborhoodAttention1D(12, 2, 3, proj_drop=0.5), torch.randn(2, 9, 12)
    assert (module(x) == 0).float().mean() > 0.2
    module.eval()
    assert not (module(x) == 0).any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(num_heads=5), "embed_dim 12 must be a multiple of num_heads, got 5"),
        (dict(num_kv_heads=4), "num_kv_heads must divide num_heads 3, got 4"),
        (dict(attn_drop=0.1), "attn_drop must be 0, got 0.1"),
        (dict(small_maps="crop"), "small_maps must be one of pad, mask, error, got 'crop'"),
        (dict(stride=4), "stride must be from 1 to kernel_size, got stride 4 and kernel_size 3 for axis 0"),
        (dict(kernel_size=(3, 3, 3)), "kernel_size has 3 entries"),
        (dict(is_causal=(True, False), rel_pos_bias=True), "rel_pos_bias is not defined for causal axes"),
    ],
)
def test_what_does_not_fit_is_refused_when_the_layer_is_built(arguments, message):
    with pytest.raises(ValueError, match=message.replace("(", r"\(").replace(")", r"\)")):
        NeighborhoodAttention2D(**dict(embed_dim=12, num_heads=3, kernel_size=3) | arguments)


def test_an_input_of_another_shape_is_refused():
    module = NeighborhoodAttention2D(12, 3, 3)
    with pytest.raises(ValueError, match=r"NeighborhoodAttention2D: input must be \(B, X, Y, 12\), got \(1, 5, 12\)"):
        module(torch.randn(1, 5, 12))


@pytest.mark.parametrize("small_maps", ["pad", "mask"])
def test_the_layer_in_compiled_code(small_maps):
    torch._dynamo.reset()
    module = NeighborhoodAttention2D(32, 4, 5, dilation=3, rel_pos_bias=True, num_kv_heads=2, small_maps=small_maps)
    compiled = torch.compile(module, fullgraph=True, dynamic=True, backend="eager")
    for spatial in (20, 17), (11, 40):  # one that is large enough, and one that is padded
        x = torch.randn(3, *spatial, 32, requires_grad=True)
        found, wanted = compiled(x), module(x)
        torch.testing.assert_close(found, wanted)
        seed = torch.randn_like(found)
        torch.testing.assert_close(torch.autograd.grad(found, x, seed), torch.autograd.grad(wanted, x, seed))


@pytest.mark.parametrize("small_maps", ["pad", "mask"])
@pytest.mark.parametrize("spatial", [(9, 10), (4, 10)])
def test_lower_precision(spatial, small_maps):
    module = NeighborhoodAttention2D(32, 4, 3, dilation=(2, 3), rel_pos_bias=True, small_maps=small_maps)
    x = torch.randn(2, *spatial, 32)
    wanted = module(x)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x)
    assert found.dtype == torch.bfloat16
    assert (found - wanted).abs().max() < 0.02
    assert (module.half()(x.half()) - wanted).abs().max() < 0.003
