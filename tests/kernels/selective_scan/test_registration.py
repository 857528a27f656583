"""The selective scan's C++ operators as operators of PyTorch: opcheck, graphs, transforms, second derivatives."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from bestiary.kernels import scan_routes, selective_scan
from bestiary.kernels.selective_scan import cpu
from bestiary.kernels.selective_scan.operators import _definition, run_scan


@pytest.fixture(autouse=True)
def compiled():
    if reason := cpu.unavailable():
        pytest.skip(reason)


def arguments(dtype=torch.float32, steps_last=False, given=True, length=9, seed=0):
    """Of the operator, up to the routes: 2 routes of one map, 3 channels, 2 states."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        x = torch.randn(*shape, generator=generator).to(dtype)
        return x.requires_grad_()

    def steps(count, width):
        return normal(2, count, width, length) if steps_last else normal(2, length, count, width)

    A = -torch.rand(2, 3, 2, generator=generator).to(dtype) - 0.1
    tensors = [steps(1, 3), steps(2, 3), A.requires_grad_(), steps(2, 2), steps(2, 2)]
    optional = [normal(2, 3), steps(2, 3), normal(2, 3), normal(2, 2, 3, 2)]
    routes = torch.stack([torch.randperm(length, generator=generator) for _ in range(2)])
    return (*tensors, *(optional if given else [None] * 4), routes if given else None)


@pytest.mark.parametrize(("given", "steps_last"), [pytest.param(True, False, marks=pytest.mark.slow), (False, True)])
def test_opcheck(given, steps_last):
    """On few steps: the second derivative, which is traced as well, goes through the definition's loop."""
    call = *arguments(steps_last=steps_last, given=given, length=2), True, steps_last
    for chunk in (0, 1):
        torch.library.opcheck(torch.ops.bestiary.selective_scan_forward.default, (*call, chunk))
    out, last, states = (x.detach() for x in torch.ops.bestiary.selective_scan_forward(*call, 1))
    seeds = torch.randn_like(out).requires_grad_(), torch.randn_like(last).requires_grad_() if given else None
    torch.library.opcheck(torch.ops.bestiary.selective_scan_backward.default, (*seeds, states, *call, 1))


def test_a_gradient_without_kept_states():
    """The operator called as for inference: the states are made when they are wanted."""
    *tensors, routes = arguments(length=70)
    some = [x for x in tensors if x is not None]
    for chunk in (0, 32, 7):
        out, last, _ = torch.ops.bestiary.selective_scan_forward(*tensors, routes, True, False, chunk)
        found = torch.autograd.grad(out.pow(2).sum() + last.sum(), some)
        if chunk == 0:
            first = found
        for one, other in zip(found, first, strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("given", [False, True])
def test_second_derivatives(given):
    *tensors, routes = arguments(torch.float64, given=given, length=3)
    some = [x for x in tensors if x is not None]

    def run(*some):
        places = iter(some)
        out, last = run_scan(*(None if x is None else next(places) for x in tensors), routes, True, False)
        return (out, last) if given else out

    assert torch.autograd.gradcheck(run, some)
    assert torch.autograd.gradgradcheck(run, some)


def test_transforms_of_torch_func():
    """grad, and vmap of grad, are served by the operators."""
    u, delta, A, B, C, *_ = (x if x is None else x.detach() for x in arguments(torch.float64, steps_last=True))
    delta, u = delta[:, 0], u[:, 0]

    def loss(u, backend):
        return selective_scan(u, delta, A[0], B[:, 0], C[:, 0], delta_softplus=True, backend=backend).pow(2).sum()

    several = torch.stack((u, 2 * u))
    mapped = torch.func.vmap(torch.func.grad(loss), in_dims=(0, None))
    torch.testing.assert_close(*(torch.func.grad(loss)(u, name) for name in ("cpu", "reference")))
    torch.testing.assert_close(*(mapped(several, name) for name in ("cpu", "reference")))


class Both(torch.nn.Module):
    """Both public operators, on C++."""

    def forward(self, u, delta, A, B, C, D, z, bias, start, routes):
        flat = [x.flatten(0, 1) for x in (A, D, bias)]
        scanned, last = selective_scan(
            u.repeat(1, 1, 2, 1).flatten(2).mT, delta.flatten(2).mT, flat[0], B.permute(0, 2, 3, 1),
            C.permute(0, 2, 3, 1), flat[1], z.flatten(2).mT, flat[2], True, True, start.flatten(1, 2), "cpu",
        )  # fmt: skip
        return scanned, last, scan_routes(u, routes, delta, A, B, C, D, bias, True, "cpu")


def test_compiles_without_a_graph_break_and_exports():
    given = arguments(length=50)
    some = [x for x in given if x.is_floating_point()]

    def results(run):
        outs = run(*given)
        return *outs, *torch.autograd.grad(sum(x.pow(2).sum() for x in outs), some)

    expected = results(Both())
    for one, other in zip(results(torch.compile(Both(), fullgraph=True, backend="aot_eager")), expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.compiler.reset()
    exported = torch.export.export(Both(), given)
    names = {str(node.target) for node in exported.graph.nodes}
    assert "bestiary.selective_scan_forward.default" in names
    for one, other in zip(exported.module()(*given), expected, strict=False):
        torch.testing.assert_close(one, other)


def test_operations_are_counted():
    """9 multiply-adds a step and state, and twice that backward."""
    *tensors, routes = arguments(length=10)
    with FlopCounterMode(display=False) as counter:
        out, _ = run_scan(*tensors, routes, True, False)
    forward = 2 * 9 * 2 * 10 * 2 * 3 * 2
    assert counter.get_total_flops() == forward
    with FlopCounterMode(display=False) as counter:
        out.sum().backward()
    assert counter.get_total_flops() == 2 * forward


def test_the_operators_agree_with_the_definition_for_each_option():
    for steps_last in (False, True):
        for given in (False, True):
            call = *arguments(torch.float64, steps_last, given), given, steps_last
            for one, other in zip(run_scan(*call), _definition(*call), strict=True):
                torch.testing.assert_close(one, other)
