"""timm's optimizers by config."""

import pytest
import timm.optim
import torch
from mmengine.optim import build_optim_wrapper
from torch import nn

from bestiary.engine.optimizers import TimmOptimizer
from bestiary.errors import InputError
from bestiary.registry import OPTIM_WRAPPERS


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.GELU(), nn.Linear(8, 2))


@pytest.mark.parametrize("name", ["lamb", "lion", "adamp", "nadamw"])
def test_a_step_is_timms(name):
    ours, theirs = net(), net()
    config = dict(optimizer=dict(type="bestiary.TimmOptimizer", name=name, lr=0.01, weight_decay=0.1))
    wrapper = build_optim_wrapper(ours, config)
    optimizer = timm.optim.get_optimizer_class(name, bind_defaults=True)(theirs.parameters(), lr=0.01, weight_decay=0.1)
    before = [p.clone() for p in ours.parameters()]
    x = torch.randn(5, 3)
    for _ in range(2):
        wrapper.update_params(ours(x).square().sum())
        optimizer.zero_grad()
        theirs(x).square().sum().backward()
        optimizer.step()
    for one, other, old in zip(ours.parameters(), theirs.parameters(), before, strict=True):
        torch.testing.assert_close(one, other)
        assert not torch.equal(one, old)


def adamw(p, g, state, t, lr, decay):
    """Loshchilov and Hutter, arXiv:1711.05101."""
    m, v = state.setdefault("m", 0 * p), state.setdefault("v", 0 * p)
    state["m"], state["v"] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    mean, square = state["m"] / (1 - 0.9**t), state["v"] / (1 - 0.999**t)
    return p - lr * decay * p - lr * mean / (square**0.5 + 1e-8)


def lamb(p, g, state, t, lr, decay):
    """You et al., arXiv:1904.00962: Adam's step and decay, scaled to the size of the weights."""
    m, v = state.setdefault("m", 0 * p), state.setdefault("v", 0 * p)
    state["m"], state["v"] = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
    step = state["m"] / (1 - 0.9**t) / ((state["v"] / (1 - 0.999**t)) ** 0.5 + 1e-6) + decay * p
    return p - lr * step * p.norm() / step.norm()


def lion(p, g, state, t, lr, decay):
    """Chen et al., arXiv:2302.06675: the sign of a mean."""
    m = state.setdefault("m", 0 * p)
    state["m"] = 0.99 * m + 0.01 * g
    return p - lr * decay * p - lr * (0.9 * m + 0.1 * g).sign()


@pytest.mark.parametrize(
    ("optimizer", "definition"),
    [
        (dict(type="AdamW"), adamw),
        (dict(type="bestiary.TimmOptimizer", name="lamb", max_grad_norm=None), lamb),
        (dict(type="bestiary.TimmOptimizer", name="lion"), lion),
    ],
    ids=["adamw", "lamb", "lion"],
)
def test_steps_are_the_papers(optimizer, definition):
    """Five steps in float64, with random gradients."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)).double()
    wrapper = build_optim_wrapper(model, dict(optimizer=dict(**optimizer, lr=0.02, weight_decay=0.1)))
    expected = [p.detach().clone() for p in model.parameters()]
    states = [{} for _ in expected]
    for t in range(1, 6):
        for number, p in enumerate(model.parameters()):
            p.grad = torch.randn_like(p)
            expected[number] = definition(expected[number], p.grad.clone(), states[number], t, 0.02, 0.1)
        wrapper.step()
        for one, other in zip(model.parameters(), expected, strict=True):
            torch.testing.assert_close(one.detach(), other, rtol=1e-12, atol=1e-12)


def test_lamb_is_clipped_by_the_norm_of_all_gradients_unless_told_otherwise():
    """timm's default, `max_grad_norm=1`, as the authors' code has it."""
    torch.manual_seed(0)
    results = []
    for factor in (10.0, 1e3):
        weight = nn.Parameter(torch.ones(4, 3, dtype=torch.float64))
        optimizer = TimmOptimizer([weight], "lamb", lr=0.1, weight_decay=0.1)
        for _ in range(2):
            weight.grad = factor * torch.arange(1.0, 13.0, dtype=torch.float64).reshape(4, 3)
            optimizer.step()
        results.append(weight.detach().clone())
    torch.testing.assert_close(*results)


def test_paramwise_cfg():
    model = net()
    wrapper = build_optim_wrapper(
        model,
        dict(
            optimizer=dict(type="bestiary.TimmOptimizer", name="lamb", lr=0.01, weight_decay=0.1),
            paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, custom_keys={"3": dict(lr_mult=0.5)}),
            clip_grad=dict(max_norm=1.0),
        ),
    )
    assert type(wrapper.optimizer) is timm.optim.Lamb
    groups = {id(p): group for group in wrapper.optimizer.param_groups for p in group["params"]}
    found = {name: (groups[id(p)]["lr"], groups[id(p)]["weight_decay"]) for name, p in model.named_parameters()}
    assert found == {
        "0.weight": (0.01, 0.1),
        "0.bias": (0.01, 0.0),
        "1.weight": (0.01, 0.0),
        "1.bias": (0.01, 0.0),
        "3.weight": (0.005, 0.1),
        "3.bias": (0.005, 0.1),  # mmengine: custom_keys come before the rules for norms and biases
    }
    before = model[0].weight.clone()
    wrapper.update_params(model(torch.randn(5, 3)).square().sum())
    assert not torch.equal(before, model[0].weight)


def test_defaults_that_a_name_binds():
    weight = nn.Parameter(torch.randn(3))
    assert TimmOptimizer([weight], "sgd", lr=0.1, momentum=0.9).param_groups[0]["nesterov"] is True
    assert TimmOptimizer([weight], "momentum", lr=0.1, momentum=0.9).param_groups[0]["nesterov"] is False


def test_unknown_names():
    with pytest.raises(InputError, match="TimmOptimizer: timm .* has no optimizer 'lamm'; .*lamb"):
        TimmOptimizer([nn.Parameter(torch.randn(3))], "lamm", lr=0.1)


def test_adaptive_clipping_is_by_the_weights_of_each_unit():
    """A row's gradient is at most `clip_factor` times the norm of its weights; the last layer's is left as it is."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    wrapper = OPTIM_WRAPPERS.build(
        dict(
            type="bestiary.AdaptiveClipOptimWrapper",
            clip_factor=0.02,
            optimizer=torch.optim.SGD(model.parameters(), lr=1.0),
        )
    )
    before = [p.detach().clone() for p in model.parameters()]
    loss = 50 * model(torch.randn(8, 3)).square().sum()
    grads = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True)
    wrapper.update_params(loss)
    changes = [old - new for old, new in zip(before, model.parameters(), strict=True)]
    for old, grad, change in zip(before[:2], grads[:2], changes[:2], strict=True):
        dims = 1 if old.ndim > 1 else 0  # a unit is a row of a matrix, a vector whole

        def norm(x, dims=dims):
            return x.norm(dim=dims, keepdim=True)

        limit = 0.02 * norm(old).clamp(min=1e-3)
        wanted = torch.where(norm(grad) > limit, grad * limit / norm(grad).clamp(min=1e-6), grad)
        torch.testing.assert_close(change.detach(), wanted, rtol=1e-4, atol=1e-6)
        assert (norm(grad) > limit).any()
    for grad, change in zip(grads[2:], changes[2:], strict=True):
        torch.testing.assert_close(change.detach(), grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("shape", [(5, 7), (7, 5), (4, 3, 2, 2)])
@pytest.mark.parametrize(("ns_dtype", "tolerance"), [("float32", 2e-6), ("bfloat16", 2e-2)])
def test_muon_makes_updates_orthogonal_in_the_type_asked_for(shape, ns_dtype, tolerance):
    """The quintic Newton-Schulz iteration of Muon, in float64, on a random gradient."""
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(shape))
    weight.grad = torch.randn(shape)
    x = weight.grad.double().flatten(1)
    x, turned = (x.T, True) if x.shape[0] > x.shape[1] else (x, False)
    x = x / x.norm()
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    expected = weight.detach().double() - 0.1 * (x.T if turned else x).reshape(shape)
    settings = dict(lr=0.1, momentum=0.0, nesterov=False, adjust_lr_fn=None, ns_coefficients="original")
    TimmOptimizer([weight], "muon", ns_dtype=ns_dtype, **settings).step()
    error = (weight.detach().double() - expected).abs().max()
    assert error < tolerance and (ns_dtype == "float32" or error > 2e-5)


def test_muon_in_float32_leaves_other_optimizers_alone():
    torch.manual_seed(0)
    weights = [nn.Parameter(torch.ones(8, 12)) for _ in range(3)]
    optimizers = [
        TimmOptimizer([weight], "nadamuon", lr=0.1, **given)
        for weight, given in zip(weights, [{}, dict(ns_dtype="float32"), {}], strict=True)
    ]
    for _ in range(2):  # AdaMuon's first step is the update's sign
        gradient = torch.randn(8, 12)
        for weight, optimizer in zip(weights, optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    assert torch.equal(weights[0], weights[2]) and not torch.equal(weights[0], weights[1])
    assert optimizers[1].param_groups[0]["algo"] == "adamuon"


@pytest.mark.parametrize(
    ("name", "ns_dtype", "message"),
    [
        ("lamb", "float32", "ns_dtype='float32' is for Muon and its variants; lamb has no such steps"),
        ("muon", "half", "ns_dtype='half' is none of float32, bfloat16"),
    ],
)
def test_an_ns_dtype_that_does_not_fit(name, ns_dtype, message):
    with pytest.raises(InputError, match=message):
        TimmOptimizer([nn.Parameter(torch.randn(3, 2))], name, lr=0.1, ns_dtype=ns_dtype)
