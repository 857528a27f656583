"""Linear layers, by oneDNN where that is the faster library, and with an activation in the same pass.

On x86 PyTorch multiplies float32 matrices by MKL, which keeps its fastest code from processors that are not Intel's.
oneDNN, in PyTorch for convolutions, does not: on an AMD EPYC with AVX-512 a layer and its input's gradient take 5 to
40 % less time. Weights, shapes and rules are `torch.nn.Linear`'s; results differ by rounding.

PyTorch's compiler would go back to MKL, and gives oneDNN no weights that change: in its graphs these layers are calls
of one operator, `bestiary::linear`. Exported graphs keep the plain layer, which every runtime knows.
"""

from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import register_flop_formula

HAS_ONEDNN = torch.backends.mkldnn.is_available()


def _mkl_is_slow() -> bool:
    cpu = Path("/proc/cpuinfo")
    ours = torch.backends.mkl.is_available() and HAS_ONEDNN
    return ours and cpu.exists() and "AuthenticAMD" in cpu.read_text(encoding="utf-8", errors="replace")


# False leaves every product to PyTorch's own choice.
USE_ONEDNN = _mkl_is_slow()


def records(*tensors: Tensor) -> bool:
    """Whether autograd keeps what comes of these."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def autocasts(device: torch.device) -> bool:
    """Whether autocast chooses dtypes on this device just now."""
    return torch.amp.is_autocast_available(device.type) and torch.is_autocast_enabled(device.type)


def onednn_takes(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN's own operators serve a product or convolution of the two: eager float32 on a CPU."""
    return not torch.compiler.is_compiling() and _fits_onednn(x, weight)


def _fits_onednn(x: Tensor, weight: Tensor) -> bool:
    if torch.compiler.is_exporting() or torch.jit.is_tracing() or not HAS_ONEDNN:
        return False
    wide = x.dtype == weight.dtype == torch.float32 and not autocasts(x.device)
    plain = type(x) is Tensor and type(weight) in (Tensor, nn.Parameter)
    return wide and plain and x.device.type == weight.device.type == "cpu" and x.numel() > 0


def by_onednn(x: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN multiplies the two, called at once or from a compiled graph."""
    # Where the sizes do not fit, PyTorch says it better.
    return USE_ONEDNN and _fits_onednn(x, weight) and x.shape[-1] == weight.shape[1]


# The function after a product, as oneDNN calls it.
AFTER = {
    "none": ("none", [], ""),
    "gelu": ("gelu", [], "none"),
    "gelu_tanh": ("gelu", [], "tanh"),
    "silu": ("swish", [], ""),
}


def product(x: Tensor, weight: Tensor, bias: Tensor | None, act: str = "none") -> Tensor:
    """A linear layer with a function after it in the same pass; only "none" has a derivative, in compiled graphs."""
    if torch.compiler.is_compiling():
        return _in_graphs(x, weight, bias, act)
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *AFTER[act])


# Not torch.library.custom_op, whose checks of every call take 0.3 ms.
torch.library.define("bestiary::linear", "(Tensor x, Tensor weight, Tensor? bias, str act) -> Tensor")
_in_graphs = torch.ops.bestiary.linear


@torch.library.impl("bestiary::linear", "CPU")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, *AFTER[act])


@torch.library.register_fake("bestiary::linear")
def _(x: Tensor, weight: Tensor, bias: Tensor | None, act: str) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]))


def _keep(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _derive(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    return *_gradients(ctx, grad, lambda d_out, weight: _in_graphs(d_out, weight, None, "none")), None


torch.library.register_autograd("bestiary::linear", _derive, setup_context=_keep)


def _gradients(ctx, grad: Tensor, multiply: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor | None, ...]:
    """Of x, weight and bias; `multiply` is the layer itself, so that the first has a derivative in its turn."""
    x, weight = ctx.saved_tensors
    d_x = d_weight = d_bias = None
    grad = grad.contiguous()
    rows = grad.flatten(0, -2)
    if ctx.needs_input_grad[0]:
        d_x = multiply(grad, weight.t())
    if ctx.needs_input_grad[1]:
        d_weight = rows.t() @ x.flatten(0, -2)  # here MKL is the faster
    if ctx.needs_input_grad[2]:
        d_bias = rows.sum(0)
    return d_x, d_weight, d_bias


class _Linear(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return product(x, weight, bias)

    setup_context = staticmethod(_keep)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
        return _gradients(ctx, grad, linear)


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`F.linear`: (..., C_in), weight (C_out, C_in) -> (..., C_out)."""
    if not by_onednn(x, weight):
        return F.linear(x, weight, bias)
    recorded = records(x, weight) or (bias is not None and records(bias))
    if recorded and not torch.compiler.is_compiling():  # graphs derive the operator itself
        return _Linear.apply(x, weight, bias)
    return product(x, weight, bias)


class Linear(nn.Linear):
    """`torch.nn.Linear`: (..., C_in) -> (..., C_out)."""

    def forward(self, x: Tensor) -> Tensor:
        return linear(x, self.weight, self.bias)


if hasattr(torch.ops.mkldnn, "_linear_pointwise"):

    @register_flop_formula([torch.ops.mkldnn._linear_pointwise, torch.ops.bestiary.linear])
    def _operations(x, weight, *_, out_shape=None, **__) -> int:
        rows = 1
        for side in x[:-1]:
            rows *= side
        return 2 * rows * weight[0] * weight[1]
