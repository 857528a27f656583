"""The public operator of neighborhood attention, and the choice of the backend that computes it."""

import math
from collections.abc import Callable, Sequence

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor

from .. import tuning
from ..dispatch import Backend, Operator
from ..tensors import forward_mode, needs_grad
from . import cpu, cuda, flex, natten, operators, sdpa, triton  # operators: declared before they get their kernels
from .arguments import Call, check
from .reference import neighborhood_attention_reference
from .windows import Window

# A backend's `run` takes the six tensors, the window, the scale and whether the LSE is wanted; it returns the output
# and the LSE, which may be None where it is not wanted.


torch.library.impl("bestiary::na_triton_forward", ("cuda", "cpu"), triton.forward)
torch.library.impl("bestiary::na_triton_backward", ("cuda", "cpu"), triton.backward)


def _by_operator(operator: Callable[..., tuple[Tensor, Tensor]]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`run` of a backend with an operator of `operators.py`, which takes the bias in float32."""

    def run(query, key, value, bias, extra_keys, extra_values, window: Window, scale: float, return_lse=True):
        bias = None if bias is None else bias.float()
        return operator(query, key, value, bias, extra_keys, extra_values, *window, scale)

    return run


def _run_reference(query, key, value, bias, extra_keys, extra_values, window: Window, scale: float, return_lse=True):
    return neighborhood_attention_reference(query, key, value, bias, extra_keys, extra_values, window, scale)


BACKENDS = {
    "cpu": Backend(_by_operator(operators.run_na), cpu.why_not, cpu.unavailable),
    "cuda": Backend(_by_operator(operators.run_na), cuda.why_not, cuda.unavailable),
    "triton": Backend(_by_operator(operators.run_na_triton), triton.why_not, triton.unavailable),
    "natten": Backend(natten.run, natten.why_not, natten.unavailable),
    "flex": Backend(flex.run, flex.why_not),
    "sdpa": Backend(sdpa.run, sdpa.why_not),
    "reference": Backend(_run_reference, lambda call: None),
}


def kind(call: Call) -> str:
    """The name of the entry for `call` in the tables of measured orders (`tuning.py`)."""
    tokens, keys = math.prod(call.spatial), math.prod(call.window.kernel_size)
    sizes = dict(tokens=tokens, keys=keys, channels=call.channels, heads=call.batch * call.heads)
    return " ".join(
        (
            tuning.device_class(call.device.type, call.device.index),
            str(call.dtype).removeprefix("torch."),
            "backward" if call.needs_grad else "forward",
            f"{len(call.spatial)}d",
            *(f"{name}{tuning.bucket(size)}" for name, size in sizes.items()),
        )
    )


def rule(call: Call) -> tuple[str, ...]:
    """The backends to try where nothing was measured, by what is known of them.

    No GPU was measured for the table that ships: there this rule holds, until the user tunes.
    """
    if call.device.type == "cpu":
        return "cpu", "reference"  # NATTEN and FlexAttention by name only: the one is slower, the other has to compile
    if call.device.type == "meta":
        return ("reference",)  # shapes alone
    whole = ("sdpa",) if call.covers_everything else ()
    others = ("natten", "flex") if natten.library_for(call.device.type) else ("flex",)
    return *whole, "cuda", "triton", *others, "reference"


def rank(call: Call) -> tuple[str, ...]:
    """The backends to try, fastest first: as measured, then by the rule. Inside torch.compile by the rule alone."""
    order = rule(call)
    sizes = call.batch, *call.spatial, call.heads, call.channels
    if not torch.compiler.is_compiling() and all(isinstance(n, int) for n in sizes):  # symbols cannot be looked up
        order = (*(name for name in tuning.order("neighborhood_attention", kind(call)) if name in BACKENDS), *order)
    # SDPA has no second derivative, and is not chosen for who may want it.
    return tuple(name for name in order if name != "sdpa" or not call.needs_grad)


OPERATOR = Operator("neighborhood_attention", BACKENDS, rank, standard=("sdpa", "reference"))


def _signature(tensors: tuple[Tensor | None, ...], options: tuple) -> tuple:
    """All that a plan depends on, hashable."""
    return (
        tuple([t if t is None else (t.shape, t.dtype, t.device, t.requires_grad, t.stride(-1)) for t in tensors]),
        tuple([tuple(option) if type(option) is list else option for option in options]),
        torch.is_grad_enabled(),
        torch.are_deterministic_algorithms_enabled(),
        forward_ad._current_level,
    )


def _plan(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rel_pos_bias: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    stride: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    scale: float | None,
    return_lse: bool,
    backend: str | None,
) -> tuple[str, Window, float]:
    """The checks, the backend's name, the window and the scale in figures."""
    tensors = query, key, value, rel_pos_bias, additional_keys, additional_values
    call = check(
        query, key, value, kernel_size, dilation, stride, is_causal, rel_pos_bias, scale,
        additional_keys, additional_values, needs_grad(*tensors), return_lse, forward_mode(),
    )  # fmt: skip
    return OPERATOR.choose(call, backend), call.window, call.channels**-0.5 if scale is None else float(scale)


def neighborhood_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int] = 1,
    stride: int | Sequence[int] = 1,
    is_causal: bool | Sequence[bool] = False,
    rel_pos_bias: Tensor | None = None,
    scale: float | None = None,
    additional_keys: Tensor | None = None,
    additional_values: Tensor | None = None,
    return_lse: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Softmax attention of every token over a window of neighbors (arXiv:2204.07143, 2209.15001, 2504.16922).

    One, two or three spatial axes, heads last. What is per axis can be one value, or one an axis. A window slides
    inward at the borders, so that every query has `kernel_size` keys an axis; causal axes look back only.

    Args:
        query: (B, L, H, D), (B, X, Y, H, D) or (B, X, Y, Z, H, D); float16, bfloat16, float32 or float64.
        key: like `query`, with heads that divide H (fewer of them: grouped-query attention).
        value: like `key`, with any number E of channels. All three may be views of one packed tensor: only the last
            axis has to be contiguous.
        kernel_size: tokens an axis, at least 1; kernel_size * dilation <= length of the axis.
        dilation: distance of neighboring keys in tokens.
        stride: tokens that share one window, 1 to kernel_size; equal to kernel_size: blocked attention.
        is_causal: only keys up to the query's own place.
        rel_pos_bias: (H, 2 * kernel_size - 1 an axis), added to the scaled scores by distance; not with causal axes.
        scale: factor on the scores, D ** -0.5 if None.
        additional_keys, additional_values: (B, M, G, D) and (B, M, G, E), tokens that every query sees.
        return_lse: return the logarithm of the softmax's denominator as well; it has a gradient.
        backend: None takes the fastest that can serve (`bestiary.kernels.backends('neighborhood_attention')` lists
            them); a name insists on that one.

    Returns:
        Like `query` with E channels, in its dtype; with `return_lse` also the LSE, (B, *S, H), float32 or float64.

    Under autocast everything but float64 is cast to autocast's dtype first, as for scaled_dot_product_attention.

    Raises:
        InputError (a ValueError): arguments that do not fit one another; the named backend cannot serve (it says why).
    """
    device_type = query.device.type
    if device_type != "meta" and torch.is_autocast_enabled(device_type) and query.dtype != torch.float64:
        dtype = torch.get_autocast_dtype(device_type)
        query, key, value = query.to(dtype), key.to(dtype), value.to(dtype)
        if additional_keys is not None and additional_values is not None:
            additional_keys, additional_values = additional_keys.to(dtype), additional_values.to(dtype)
    tensors = query, key, value, rel_pos_bias, additional_keys, additional_values
    options = kernel_size, dilation, stride, is_causal, scale, return_lse, backend
    if torch.compiler.is_compiling():
        name, window, scale = _plan(*tensors, *options)
    else:
        seen = _signature(tensors, options)
        try:
            plan = OPERATOR.plans.get(seen)
        except TypeError:  # symbolic sizes, in other tracers, have no hash; nor has an option that will be refused
            seen = plan = None
        if plan is None:
            plan = _plan(*tensors, *options)
            if len(OPERATOR.plans) >= 4096:
                OPERATOR.plans.clear()
            if seen is not None:
                OPERATOR.plans[seen] = plan
        name, window, scale = plan
    out, lse = BACKENDS[name].run(*tensors, window, scale, return_lse)
    return (out, lse) if return_lse else out
