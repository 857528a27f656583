"""What `bestiary benchmark kernels --operator bi_level_routing` compares: that all compute the same."""

import pytest
import torch

from bestiary.tools import routing_contestants as contestants

CPU = torch.device("cpu")


def results(function, tensors, d_out):
    out = function(*tensors)
    return out, *torch.autograd.grad(out, tensors, d_out.to(out.dtype))


@pytest.mark.parametrize("name", contestants.CONTESTANTS)
def test_contestants_agree_with_the_definition(name):
    torch.manual_seed(0)
    (case,) = contestants.SETS["tiny"]
    tensors = [x.requires_grad_() for x in contestants.tensors(case, 2, torch.float32, CPU)]
    d_out = torch.randn_like(contestants.output(case, tensors))
    function = contestants.CONTESTANTS[name](case, torch.float32, CPU)
    exact = [x.detach().double().requires_grad_() for x in tensors]
    wanted = results(lambda *x: contestants.truth(case, *x), exact, d_out)
    for one, other in zip(results(function, tensors, d_out), wanted, strict=True):
        torch.testing.assert_close(one, other.float(), rtol=1e-5, atol=1e-5)


def test_cases_are_layers_that_n_win_divides():
    for cases in contestants.SETS.values():
        for case in cases:
            assert not any(side % case.n_win for side in case.size) and case.topk <= case.n_win**2
            index = case.routing(2, CPU).index
            assert index.shape == (2, case.n_win**2, case.topk)
            assert all(len(set(row.tolist())) == case.topk for row in index.flatten(0, 1))
