"""The adapter to mamba-ssm: what it refuses, and what it hands over, to a stand-in of the package's function."""

import sys
import types

import pytest
import torch

from bestiary.errors import InputError
from bestiary.kernels import backends, selective_scan
from bestiary.kernels.selective_scan import mamba_ssm
from bestiary.kernels.selective_scan.arguments import Call
from bestiary.kernels.selective_scan.reference import selective_scan_reference

GOOD = Call(torch.device("cuda"), torch.float16, 2, 9, 6, 1, 3, False, False, True, False, False)


def test_it_says_that_the_package_is_missing():
    line = next(line for line in backends("selective_scan") if line.name == "mamba_ssm")
    if line.usable:
        pytest.skip("mamba-ssm is installed with its CUDA build")
    assert "mamba-ssm is" in line.reason
    with pytest.raises(InputError, match="mamba_ssm.*(mamba-ssm is|it takes CUDA tensors)"):
        selective_scan(*(torch.randn(1, 2, 3) for _ in "ud"), torch.randn(2, 1), *(torch.randn(1, 1, 3) for _ in "BC"),
                       backend="mamba_ssm")  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (dict(device=torch.device("cpu")), "it takes CUDA tensors, these are on cpu"),
        (dict(dtype=torch.float64), "float32, float16 and bfloat16, not torch.float64"),
        (dict(states=257), "up to 256 states a channel, these are 257"),
        (dict(initial=True), "it begins with a state of zero"),
        (dict(length=0), "no empty tensors"),
        (dict(wants_state=True), "drops the gradient of the last state"),
        (dict(transformed=True), "torch.func's transforms"),
    ],
)
def test_what_it_refuses(change, reason):
    assert mamba_ssm.why_not(GOOD) is None
    assert reason in mamba_ssm.why_not(GOOD._replace(**change))


def test_gradients_in_no_fixed_order_are_refused_in_deterministic_mode():
    torch.use_deterministic_algorithms(True)
    try:
        assert "no fixed order" in mamba_ssm.why_not(GOOD)
        assert mamba_ssm.why_not(GOOD._replace(needs_grad=False)) is None
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("constant", [False, True])
def test_what_it_hands_over(constant, monkeypatch):
    """The package's function by the definition: dtypes as its kernel wants them, arguments in its order."""
    seen = []

    def selective_scan_fn(u, delta, A, B, C, D, z, delta_bias, delta_softplus, return_last_state):
        seen.extend((u, delta, A, B, C, D, z, delta_bias))
        assert return_last_state
        return selective_scan_reference(u, delta, A, B, C, D, z, delta_bias, delta_softplus, None)

    interface = types.ModuleType("mamba_ssm.ops.selective_scan_interface")
    interface.selective_scan_fn = selective_scan_fn
    monkeypatch.setitem(sys.modules, "mamba_ssm.ops.selective_scan_interface", interface)
    torch.manual_seed(0)
    u, delta, z = (torch.randn(2, 4, 9).half() for _ in range(3))
    A, D, bias = -torch.rand(4, 3).double() - 0.1, torch.randn(4).half(), torch.randn(4).half()
    B, C = (torch.randn(4, 3).half() if constant else torch.randn(2, 2, 3, 9) for _ in range(2))
    out, last = mamba_ssm.run(u, delta.float(), A, B, C, D, z, bias, True, None)
    half, single = torch.float16, torch.float32
    rows = single if constant else half
    assert [x.dtype for x in seen] == [half, half, single, rows, rows, single, half, single]
    wanted = selective_scan_reference(*(x.double() for x in (u, delta, A, B, C, D, z, bias)), True, None)
    torch.testing.assert_close(out.double(), wanted[0], rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(last.double(), wanted[1], rtol=5e-3, atol=5e-3)
