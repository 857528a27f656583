"""Export to ONNX: every operator of the room becomes nodes of ONNX's own, and gives the same numbers there."""

import warnings

import numpy as np
import pytest
import torch
from torch import nn

from bestiary.errors import InputError
from bestiary.kernels import (
    bi_level_routing_attention,
    neighborhood_attention,
    scan_routes,
    selective_scan,
    use_backend,
)

onnx = pytest.importorskip("onnx", reason="onnx is not installed: pip install bestiary[export]")
pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install bestiary[export]")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def by_onnx(module: nn.Module, *tensors: torch.Tensor):
    """The node types of the graph, those in its functions and bodies too, and what onnx's own evaluator makes of it."""
    from onnx.reference import ReferenceEvaluator

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.onnx.export(module.eval(), tensors, dynamo=True, verbose=False).model_proto
    onnx.checker.check_model(model, full_check=True)
    names = [one.name for one in model.graph.input]
    outs = ReferenceEvaluator(model).run(None, dict(zip(names, (x.numpy() for x in tensors), strict=True)))
    return {node.op_type for node in model.graph.node}, {one.domain for one in model.opset_import}, outs


class Scans(nn.Module):
    def forward(self, u, delta, A, B, C, z, start):
        out, last = selective_scan(u, delta, A, B, C, A[:, 0], z, A[:, 1], True, True, start)
        return out, last


class Routes(nn.Module):
    def __init__(self):
        super().__init__()
        orders = [torch.randperm(12, generator=torch.Generator().manual_seed(seed)) for seed in range(4)]
        self.register_buffer("routes", torch.stack(orders))

    def forward(self, u, delta, A, B, C):
        return (scan_routes(u, self.routes, delta, A, B, C, A[..., 0], A[..., 1], True),)


class Routing(nn.Module):
    def forward(self, q, k, v):
        return (bi_level_routing_attention(q, k, v, 3, 2, None, lepe=v),)


class Neighbors(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(random(2, 5, 5, seed=9))

    def forward(self, q, k, v):
        return (neighborhood_attention(q, k, v, 3, 2, rel_pos_bias=self.bias),)


def cases():
    maps = [random(2, 6, 9, 2, 4, seed=seed) for seed in range(3)]
    decay = -torch.rand(6, 3, generator=torch.Generator().manual_seed(3)) - 0.1
    steps = [random(2, 6, 7, seed=seed) for seed in range(2)]
    scan = [*steps, decay, random(2, 2, 3, 7), random(2, 2, 3, 7, seed=5), random(2, 6, 7, seed=6), random(2, 6, 3)]
    routes = [random(2, 12, 2, 5), random(2, 12, 4, 5, seed=1), -torch.rand(4, 5, 3), random(2, 12, 4, 3)]
    yield pytest.param(Scans(), scan, {"Scan"}, id="selective_scan")
    yield pytest.param(Routes(), [*routes, random(2, 12, 4, 3, seed=7)], {"Scan"}, id="scan_routes")
    yield pytest.param(Routing(), maps, {"TopK"}, id="bi_level_routing_attention")
    yield pytest.param(Neighbors(), maps, {"ReduceLogSumExp"}, id="neighborhood_attention")


@pytest.mark.parametrize("module, tensors, wanted", list(cases()))
def test_as_operators_of_onnx(module, tensors, wanted):
    nodes, domains, outs = by_onnx(module, *tensors)
    assert wanted <= nodes
    assert not any("bestiary" in domain for domain in domains)
    for found, expected in zip(outs, module(*tensors), strict=True):
        np.testing.assert_allclose(found, expected.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_the_scan_of_pytorch_by_name():
    tensors = [random(2, 6, 7, seed=seed) for seed in range(2)] + [-torch.rand(6, 3), random(2, 3, 7), random(2, 3, 7)]

    class Scan(nn.Module):
        def forward(self, u, delta, A, B, C):
            return selective_scan(u, delta, A, B, C, backend="torch_scan")

    exported = torch.export.export(Scan(), tuple(tensors))
    assert torch.ops.higher_order.scan in {node.target for node in exported.graph.nodes}
    torch.testing.assert_close(exported.module()(*tensors), selective_scan(*tensors))
    with pytest.raises(InputError, match="'torch_scan' cannot serve this call: it is for torch.export"):
        Scan()(*tensors)


def test_a_backend_that_is_insisted_on_is_not_replaced():
    module, maps = Routing(), [random(1, 6, 6, 2, 4, seed=seed) for seed in range(3)]
    with use_backend("cpu", "bi_level_routing_attention"), pytest.raises(Exception, match="(?s)bestiary.*routing"):
        by_onnx(module, *maps)
