"""Linear layers, by oneDNN where that is the faster library, and with an activation in the same pass.

On x86 PyTorch multiplies float32 matrices by MKL, which keeps its fastest code from processors that are not Intel's.
oneDNN, in PyTorch for convolutions, does not: on an AMD EPYC with AVX-512 a layer and its input's gradient take 5 to
40 % less time. Weights, shapes and rules are `torch.nn.Linear`'s; results differ by rounding.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula


def _mkl_is_slow() -> bool:
    cpu = Path("/proc/cpuinfo")
    ours = torch.backends.mkl.is_available() and torch.backends.mkldnn.is_available()
    return ours and cpu.exists() and "AuthenticAMD" in cpu.read_text(encoding="utf-8", errors="replace")


# False leaves every product without an activation to PyTorch's own choice.
USE_ONEDNN = _mkl_is_slow()


def records(*tensors: Tensor) -> bool:
    """Whether autograd keeps what comes of these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def autocasts(device: torch.device) -> bool:
    """Whether autocast chooses dtypes on this device just now."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def onednn_takes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's own operators serve a product or convolution of the two: eager float32 on a CPU."""
    # A compiled or exported graph keeps the plain layer, which any backend knows.
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not torch.backends.mkldnn.is_available():
        return False
    wide = x.dtype == weight.dtype == torch.float32 and not autocasts(x.device)
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter)
    return wide and plain and x.device.type == weight.device.type == "cpu" and x.numel() > 0


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return _product(x, weight, bias)

    @staticmethod
    def setup_context(ctx, inputs, output) -> None:
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, grad: Tensor):
        x, weight = ctx.saved_tensors
        d_x = d_weight = d_bias = None
        grad = grad.contiguous()
        rows = grad.flatten(0, -2)
        if ctx.needs_input_grad[0]:
            d_x = linear(grad, weight.t())  # this function again, so that it has a derivative in its turn
        if ctx.needs_input_grad[1]:
            d_weight = rows.t() @ x.flatten(0, -2)  # here MKL is the faster
        if ctx.needs_input_grad[2]:
            d_bias = rows.sum(0)
        return d_x, d_weight, d_bias


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., C_in), weight (C_out, C_in) -> (..., C_out)."""
    # Where the sizes do not fit, PyTorch says it better.
    if not (USE_ONEDNN and onednn_takes(x, weight) and x.shape[-1] == weight.shape[1]):
        return F.linear(x, weight, bias)
    if records(x, weight) or (bias is not None and records(bias)):
        return _Linear.apply(x, weight, bias)
    return _product(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear`: (..., C_in) -> (..., C_out)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):

    @register_flop_formula(torch.ops.mkldnn._linear_pointwise)
    def _operations(x, weight, *_, out_shape=None, **__) -> int:
        rows = 1
        for side in x[:-1]:
            rows *= side
        return 2 * rows * weight[0] * weight[1]
