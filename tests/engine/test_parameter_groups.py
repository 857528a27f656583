"""Steps on merged groups: the numbers of steps on a group a parameter, and nothing of the merging is left behind."""

import copy

import pytest
import torch
from torch import nn

from bestiary.engine.optimizers import TimmOptimizer
from bestiary.engine.parameter_groups import merge_groups

OPTIMIZERS = {
    "adamw": lambda groups: torch.optim.AdamW(groups, lr=1e-2),
    "adamw, a rate in a tensor": lambda groups: torch.optim.AdamW(groups, lr=torch.tensor(1e-2)),
    "adagrad": lambda groups: torch.optim.Adagrad(groups, lr=1e-2),
    **{
        name: lambda groups, name=name: TimmOptimizer(groups, name, lr=1e-2)
        for name in ("lamb", "lion", "nadamuon", "adan", "adafactor")  # some keep a counter in their groups
    },
}


def trained(make, merged, counts=None):
    """Parameters, groups and state after three steps whose rates a schedule changes; the sizes of the groups seen."""
    torch.manual_seed(0)
    params = [nn.Parameter(torch.randn(shape, dtype=torch.float64)) for shape in [(4, 3), (5,), (8, 6), (2,), (6, 2)]]
    groups = [
        dict(params=[p], weight_decay=0.0 if p.ndim == 1 else 0.05, lr=1e-3 if k == 4 else 1e-2)
        for k, p in enumerate(params)
    ]
    optimizer = make(groups)
    if merged:
        merge_groups(optimizer)
    if counts is not None:
        optimizer.register_step_pre_hook(lambda *_: counts.append(len(optimizer.param_groups)))
    for step in range(3):
        for p in params:
            p.grad = torch.randn_like(p)
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] * 0.5 if step else group["lr"]
        optimizer.step()
    return params, optimizer


def plain(group):
    return {key: value for key, value in group.items() if key != "params"}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_steps_are_the_same(name):
    counts = []
    (expected, apart), (params, merged) = trained(OPTIMIZERS[name], False), trained(OPTIMIZERS[name], True, counts)
    for one, other in zip(expected, params, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)  # lamb adds up norms in another order
    assert [plain(group) for group in merged.param_groups] == [plain(group) for group in apart.param_groups]
    assert [[id(p) for p in group["params"]] for group in merged.param_groups] == [[id(p)] for p in params]
    assert merged.state_dict()["state"].keys() == apart.state_dict()["state"].keys()
    assert counts[0] == 3  # decayed, not decayed, and the one of another rate


def test_it_goes_on_from_a_state_that_was_not_merged():
    (_, apart), (params, merged) = trained(OPTIMIZERS["adamw"], False), trained(OPTIMIZERS["adamw"], True)
    state = copy.deepcopy(apart.state_dict())
    merged.load_state_dict(state)
    for p in params:
        p.grad = torch.ones_like(p)
    merged.step()
    assert len(merged.param_groups) == 5 and merged.state_dict()["state"][0]["step"] == 4


def test_after_a_step_that_ended_in_an_error():
    params, optimizer = trained(OPTIMIZERS["adamw"], True)
    good = params[0].grad
    params[0].grad = torch.sparse_coo_tensor([[0], [0]], [1.0], (4, 3), dtype=torch.float64)
    with pytest.raises(RuntimeError, match="sparse"):
        optimizer.step()
    params[0].grad = good
    optimizer.step()
    assert len(optimizer.param_groups) == 5


def test_settings_that_cannot_be_hashed():
    params = [nn.Parameter(torch.ones(3)) for _ in range(3)]
    lists = [[0.9, 0.99], [0.9, 0.99], [0.8, 0.99]]
    optimizer = torch.optim.Adam([dict(params=[p], betas=betas) for p, betas in zip(params, lists, strict=True)])
    merge_groups(optimizer)
    seen = []
    optimizer.register_step_pre_hook(lambda *_: seen.append(len(optimizer.param_groups)))
    for p in params:
        p.grad = torch.ones(3)
    optimizer.step()
    assert seen == [2] and [group["betas"] for group in optimizer.param_groups] == lists
