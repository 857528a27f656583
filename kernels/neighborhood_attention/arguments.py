"""The arguments of neighborhood attention: brought into one form, and refused in words where they do not fit."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ..tensors import DTYPES
from .windows import Window


class Call(NamedTuple):
    """What a backend has to know to say whether it can serve. Letters as in `reference.py`."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    spatial: tuple[int, ...]
    heads: int
    kv_heads: int
    channels: int
    value_channels: int
    additional: int | None  # M, None without additional tokens
    has_bias: bool
    window: Window
    needs_grad: bool
    wants_lse: bool
    forward_mode: bool  # inside torch.autograd.forward_ad.dual_level, or torch.func.jvp

    @property
    def covers_everything(self) -> bool:
        """Every query sees every key: plain attention."""
        lengths = zip(self.spatial, *self.window, strict=True)
        return all(k == length and d == 1 and not causal for length, k, _, d, causal in lengths)


def refusal(call: Call, devices: tuple[str, ...], dtypes: tuple[torch.dtype, ...], empty: bool = True) -> str | None:
    """Why a backend for these devices and dtypes, without forward mode, cannot serve `call`; None: for none of this.

    `empty`: whether it takes calls of no batch items or no heads.
    """
    if call.device.type not in devices:
        return f"it takes {_listed([kind.upper() for kind in devices])} tensors, these are on {call.device}"
    if call.dtype not in dtypes:
        return f"it takes {_listed([str(dtype).removeprefix('torch.') for dtype in dtypes])}, not {call.dtype}"
    if not empty and (call.batch == 0 or call.heads == 0):
        return "it takes no empty batch and no zero heads"
    return "it has no forward-mode derivative" if call.forward_mode else None


def _listed(names: list[str]) -> str:
    *some, last = names
    return f"{', '.join(some)} and {last}" if some else last


def fail(message: str) -> InputError:
    return InputError(f"neighborhood_attention: {message}")


def per_axis(name: str, value: Any, axes: int, kind: type = int) -> tuple:
    """`value` once for every axis, or a sequence of `axes` values; ints, or bools where `kind` is bool."""
    if isinstance(value, Sequence) and not isinstance(value, str):
        values = tuple(value)
        if len(values) != axes:
            raise fail(
                f"{name} has {len(values)} entries {values}; query has {axes} spatial axes: give one each, or one"
            )
    else:
        values = (value,) * axes
    for entry in values:
        # Plain ints and the symbolic ones of torch.compile; NumPy's ints count as Integral, bools must not.
        fits = isinstance(entry, bool) == (kind is bool) and isinstance(entry, (Integral, torch.SymInt))
        if not fits:
            raise fail(f"{name} must be {'a bool' if kind is bool else 'an int'} or one an axis, got {value!r}")
    return values


def check_window(
    axes: int,
    kernel_size: int | Sequence[int],
    stride: int | Sequence[int],
    dilation: int | Sequence[int],
    is_causal: bool | Sequence[bool],
) -> Window:
    """The window, one entry an axis, and the checks on it that need no map. Raises InputError."""
    window = Window(
        per_axis("kernel_size", kernel_size, axes),
        per_axis("stride", stride, axes),
        per_axis("dilation", dilation, axes),
        per_axis("is_causal", is_causal, axes, bool),
    )
    for axis, (k, s, d, _) in enumerate(zip(*window, strict=True)):
        if k < 1 or d < 1:
            raise fail(f"kernel_size and dilation must be at least 1, got {k} and {d} for axis {axis}")
        if not 1 <= s <= k:
            raise fail(f"stride must be from 1 to kernel_size, got stride {s} and kernel_size {k} for axis {axis}")
    return window


def check(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    kernel_size: int | Sequence[int],
    dilation: int | Sequence[int],
    stride: int | Sequence[int],
    is_causal: bool | Sequence[bool],
    rel_pos_bias: Tensor | None,
    scale: float | None,
    additional_keys: Tensor | None,
    additional_values: Tensor | None,
    needs_grad: bool,
    wants_lse: bool,
    forward_mode: bool,
) -> Call:
    """All checks that depend on shapes, dtypes, devices and options. Raises InputError, a ValueError."""
    if not 4 <= query.ndim <= 6:
        raise fail(
            "query must be (B, L, heads, D), (B, H, W, heads, D) or (B, T, H, W, heads, D), "
            f"got {query.ndim} axes: {tuple(query.shape)}"
        )
    batch, *spatial, heads, channels = query.shape
    axes = len(spatial)
    kv_heads, value_channels = key.shape[-2] if key.ndim > 1 else 0, value.shape[-1] if value.ndim else 0
    if key.ndim != query.ndim or tuple(key.shape) != (batch, *spatial, kv_heads, channels):
        raise fail(f"key must be {(batch, *spatial, 'kv heads', channels)} as query is, got {tuple(key.shape)}")
    if value.ndim != query.ndim or tuple(value.shape) != (batch, *spatial, kv_heads, value_channels):
        raise fail(f"value must be {(batch, *spatial, kv_heads, 'any')} as key is, got {tuple(value.shape)}")
    if (kv_heads == 0 and heads) or (kv_heads and heads % kv_heads):
        raise fail(f"query's {heads} heads must be a multiple of key's and value's {kv_heads}")
    if channels == 0 or value_channels == 0:
        raise fail(f"heads need at least one channel, query has {channels} and value {value_channels}")
    if any(length == 0 for length in spatial):
        raise fail(f"query's spatial axes must not be empty, got {tuple(spatial)}; an empty batch is fine")
    if query.dtype not in DTYPES:
        raise fail(f"query must be float16, bfloat16, float32 or float64, got {query.dtype}")

    tensors = {"key": key, "value": value}
    if (additional_keys is None) != (additional_values is None):
        raise fail("additional_keys and additional_values go together, only one was given")
    additional = None
    if additional_keys is not None and additional_values is not None:
        additional = additional_keys.shape[1] if additional_keys.ndim == 4 else 0
        for name, tensor, width in (
            ("additional_keys", additional_keys, channels),
            ("additional_values", additional_values, value_channels),
        ):
            if tuple(tensor.shape) != (batch, additional, kv_heads, width):
                tokens = "tokens" if name == "additional_keys" else additional
                raise fail(f"{name} must be {(batch, tokens, kv_heads, width)}, got {tuple(tensor.shape)}")
        tensors |= {"additional_keys": additional_keys, "additional_values": additional_values}
    for name, tensor in tensors.items():
        if tensor.dtype != query.dtype:
            raise fail(f"{name} is {tensor.dtype}, query {query.dtype}: cast them to one dtype")
        if tensor.device != query.device:
            raise fail(f"{name} is on {tensor.device}, query on {query.device}: move them to one device")
    for name, tensor in {"query": query, **tensors}.items():
        if tensor.stride(-1) != 1 and tensor.shape[-1] > 1 and tensor.numel():
            raise fail(
                f"{name}'s last dimension must be contiguous, its stride is {tensor.stride(-1)}: {name}.contiguous()"
            )

    window = check_window(axes, kernel_size, stride, dilation, is_causal)
    for axis, (length, k, d) in enumerate(zip(spatial, window.kernel_size, window.dilation, strict=True)):
        if k * d > length:
            raise fail(
                f"kernel_size {k} with dilation {d} needs an axis of {k * d} tokens or more, axis {axis} has {length}: "
                f"pad the map, or use kernel_size <= {length // d}"
                + (f" or dilation <= {length // k}" if d > 1 else "")
            )
    if rel_pos_bias is not None:
        if any(window.is_causal):
            raise fail("rel_pos_bias is not defined for causal axes: leave out rel_pos_bias or is_causal")
        table = (heads, *(2 * k - 1 for k in window.kernel_size))
        if tuple(rel_pos_bias.shape) != table:
            raise fail(
                f"rel_pos_bias must be (heads, 2 * kernel_size - 1 an axis) = {table}, got {tuple(rel_pos_bias.shape)}"
            )
        if not rel_pos_bias.is_floating_point():
            raise fail(f"rel_pos_bias must be floating, got {rel_pos_bias.dtype}")
        if rel_pos_bias.device != query.device:
            raise fail(f"rel_pos_bias is on {rel_pos_bias.device}, query on {query.device}: move them to one device")
    if scale is not None:
        if isinstance(scale, Tensor):  # it would have no gradient, and its value would be remembered with the plan
            raise fail("scale must be a number, got a tensor: multiply query by it and give scale=1.0")
        if not -math.inf < scale < math.inf:  # NaN is not; and torch.compile, which makes it a symbol, can follow
            raise fail(f"scale must be finite, got {scale}")
    return Call(
        query.device, query.dtype, batch, tuple(spatial), heads, kv_heads, channels, value_channels, additional,
        rel_pos_bias is not None, window, needs_grad, wants_lse, forward_mode,
    )  # fmt: skip
