"""Linear layer and MLP, by oneDNN and without it, against their definitions in float64."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from bestiary.backbones.layers import Linear, Mlp, linear


@pytest.fixture(params=[True, False], ids=["onednn", "plain"])
def library(request, monkeypatch):
    """Whether oneDNN is used, whatever this processor is."""
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("PyTorch without oneDNN")
    monkeypatch.setitem(linear.__globals__, "USE_ONEDNN", request.param)
    return request.param


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def close(one, other, tolerance=2e-6):
    assert one.shape == other.shape
    assert (one.double() - other).abs().max() <= tolerance * other.abs().max().clamp_min(1e-3)


@pytest.mark.parametrize("shape", [(7, 5), (1, 5), (2, 3, 4, 5), (1, 1, 1, 5), (3, 40, 5)])
@pytest.mark.parametrize("bias", [True, False])
def test_values_and_gradients_are_the_definitions(library, shape, bias):
    torch.manual_seed(0)
    layer, x = Linear(5, 6, bias=bias), torch.randn(shape, requires_grad=True)
    exact, wide = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    wanted = wide @ exact.weight.T + (exact.bias if bias else 0)
    with torch.no_grad():
        close(layer(x), wanted)
    grad = torch.randn(*shape[:-1], 6)
    out = layer(x)
    close(out, wanted)
    out.backward(grad)
    wanted.backward(grad.double())
    close(x.grad, wide.grad)
    close(layer.weight.grad, exact.weight.grad)
    if bias:
        close(layer.bias.grad, exact.bias.grad)


def test_memory_in_any_order(library):
    layer, x = Linear(6, 4), torch.randn(5, 6, 3).mT.requires_grad_()
    out = layer(x)
    out.sum().backward()  # the gradient of a sum has strides of 0
    close(out, x.double() @ layer.weight.double().T + layer.bias.double())
    close(x.grad, layer.weight.double().sum(0).expand(5, 3, 6))
    close(layer.weight.grad, x.detach().double().sum((0, 1)).expand(4, 6))
    close(layer.bias.grad, torch.full((4,), 15.0).double())


def test_only_what_needs_a_gradient_gets_one(library):
    layer, x = Linear(6, 4), torch.randn(3, 6)
    layer(x).sum().backward()
    assert x.grad is None and layer.weight.grad is not None
    layer = Linear(6, 4).requires_grad_(False)
    layer(x.requires_grad_()).sum().backward()
    assert layer.weight.grad is None and layer.bias.grad is None
    close(x.grad, layer.weight.double().sum(0).expand(3, 6))
    assert not layer(x.detach()).requires_grad


def test_mlp_is_its_definition(library):
    torch.manual_seed(0)
    mlp, x = Mlp(5, 7), torch.randn(2, 3, 4, 5) * 3
    exact = copy.deepcopy(mlp).double()
    wide = x.double().requires_grad_()
    hidden = gelu(wide @ exact.fc1.weight.T + exact.fc1.bias)
    wanted = hidden @ exact.fc2.weight.T + exact.fc2.bias
    with torch.no_grad():
        close(mlp(x), wanted)
    x.requires_grad_()
    out = mlp(x)
    close(out, wanted)
    out.square().sum().backward()
    wanted.square().sum().backward()
    close(x.grad, wide.grad, 1e-5)
    for one, other in zip(mlp.parameters(), exact.parameters(), strict=True):
        close(one.grad, other.grad, 1e-5)


def test_what_oneDNN_does_not_take_is_left_to_pytorch(library):
    layer = Linear(6, 4)
    assert layer(torch.randn(0, 6)).shape == (0, 4)
    assert layer.double()(torch.randn(3, 6).double()).dtype == torch.float64
    layer.float()
    with torch.autocast("cpu", torch.bfloat16):
        out = layer(torch.randn(3, 6))
        assert out.dtype == torch.bfloat16
    out.sum().backward()
    assert layer.weight.grad.dtype == torch.float32
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        layer(torch.randn(3, 5))
    with torch.device("meta"):
        assert Linear(6, 4)(torch.empty(3, 6)).shape == (3, 4)


def test_transforms_and_counters(library):
    layer, x = Linear(6, 4), torch.randn(5, 3, 6)
    with FlopCounterMode(display=False) as counter:
        layer(x)
    assert counter.get_total_flops() == 2 * 15 * 6 * 4
    close(torch.func.vmap(layer)(x), layer(x).double().detach())
    exported = torch.export.export(nn.Sequential(layer), (x,))
    assert not any("mkldnn" in str(node.target) for node in exported.graph.nodes)
    close(exported.module()(x), layer(x).double().detach())


def test_second_derivatives(library):
    torch.manual_seed(0)
    layer, x = Linear(5, 6), torch.randn(7, 5, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    second = torch.autograd.grad(first.square().sum(), [x, layer.weight])
    exact, wide = copy.deepcopy(layer).double(), x.detach().double().requires_grad_()
    (first,) = torch.autograd.grad((wide @ exact.weight.T + exact.bias).square().sum(), wide, create_graph=True)
    wanted = torch.autograd.grad(first.square().sum(), [wide, exact.weight])
    for one, other in zip(second, wanted, strict=True):
        close(one, other, tolerance=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_compiled_graphs_call_the_operator(library, bias):
    torch.compiler.reset()  # else compilations of the other cases count against the limit
    torch.manual_seed(5)
    layer, mlp = Linear(6, 5, bias=bias), Mlp(5, 9)
    x = torch.randn(2, 3, 6, requires_grad=True)
    kept = []

    def keep(graph, inputs):
        kept.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    def of(run):
        y = run(x)
        return y, *torch.autograd.grad(y.square().sum(), [x, *layer.parameters(), *mlp.parameters()])

    net = nn.Sequential(layer, mlp)
    compiled = torch.compile(net, fullgraph=True, backend="aot_eager")
    for one, other in zip(of(compiled), of(net), strict=True):
        torch.testing.assert_close(one, other)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), net(x))
    torch.compile(net, fullgraph=True, backend=keep)(x)
    assert any("bestiary" in target for target in kept) == library


def test_the_operator_is_well_formed():
    torch.manual_seed(6)
    x, weight, bias = torch.randn(3, 4, 6), torch.randn(5, 6), torch.randn(5)
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this PyTorch is without oneDNN")
    for given in ((x, weight, bias, "none"), (x, weight, None, "none")):
        torch.library.opcheck(
            torch.ops.bestiary.linear, [t.requires_grad_() if isinstance(t, torch.Tensor) else t for t in given]
        )
    for act, function in (("gelu", F.gelu), ("gelu_tanh", lambda v: F.gelu(v, approximate="tanh")), ("silu", F.silu)):
        wanted = function(x.double() @ weight.double().T + bias.double())
        with torch.no_grad():
            torch.testing.assert_close(
                torch.ops.bestiary.linear(x, weight, bias, act).double(), wanted, rtol=1e-5, atol=1e-5
            )
