"""The gradients of neighborhood attention in Triton: queries, then keys and values, then what few entries share."""

import torch
from torch import Tensor

from .key_gradient import key_gradient_launch
from .query_gradient import bias_from_partial, bias_partial, query_gradient_launch
from .small_gradients import bias_gradient, extra_gradient
from .tiling import axes_of


def backward(
    d_out: Tensor,
    d_lse: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    out: Tensor,
    lse: Tensor,
    rel_pos_bias: Tensor | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    kernel_size: list[int],
    stride: list[int],
    dilation: list[int],
    is_causal: list[int],
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of query, key, value, bias and additional tokens; empty ones, (0,), for what is not there.

    `out` and `lse` are the forward's, contiguous; `d_lse` (B, *S, H) float32 or None. Equal bit for bit at every run:
    each sum has one order.
    """

    def empty(like: Tensor, dtype: torch.dtype = query.dtype) -> Tensor:
        return torch.empty(like.shape, dtype=dtype, device=query.device)

    nothing = torch.empty(0, dtype=query.dtype, device=query.device)
    d_query, d_key, d_value = empty(query), empty(key), empty(value)
    d_bias = nothing.float() if rel_pos_bias is None else torch.zeros_like(rel_pos_bias, dtype=torch.float32)
    d_extra_keys, d_extra_values = (
        nothing.clone() if t is None else torch.zeros_like(t) for t in (additional_keys, additional_values)
    )
    if lse.numel():
        axes = axes_of(query.shape[1:-2], kernel_size, stride, dilation, is_causal)
        if d_out.stride(-1) != 1 and d_out.shape[-1] > 1:
            d_out = d_out.contiguous()
        d_lse = None if d_lse is None else d_lse.contiguous()
        bias = None if rel_pos_bias is None else rel_pos_bias.contiguous()
        delta = torch.empty(lse.shape, dtype=torch.float32, device=lse.device)
        extras = additional_keys, additional_values
        partial = None if bias is None else bias_partial(query, value, axes)
        query_gradient_launch(
            d_out, d_lse, query, key, value, out, lse, bias, *extras, axes, scale, d_query, delta, partial
        ).run()
        key_gradient_launch(d_out, query, key, value, lse, delta, bias, axes, scale, d_key, d_value).run()
        if partial is not None:
            d_bias = bias_from_partial(partial, axes)
        elif bias is not None:
            d_bias = bias_gradient(d_out, query, key, value, lse, delta, bias, axes=axes, scale=scale)
        if additional_keys is not None and additional_values is not None and additional_keys.shape[1]:
            d_extra_keys, d_extra_values = extra_gradient(
                d_out, query, lse, delta, additional_keys, additional_values, axes=axes, scale=scale
            )
    return d_query, d_key, d_value, d_bias, d_extra_keys, d_extra_values
