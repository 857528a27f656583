"""The arguments of bi-level routed attention: brought into one form, and refused in words where they do not fit."""

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ...errors import InputError
from ..tensors import DTYPES
from .regions import Grid, Routing


class Call(NamedTuple):
    """What a backend has to know to say whether it can serve. Letters as in `regions.py`."""

    device: torch.device
    dtype: torch.dtype
    batch: int
    size: tuple[int, int]  # of the map of queries
    kv_size: tuple[int, int]  # of the map of keys and values
    heads: int
    channels: int
    value_channels: int
    grid: Grid
    topk: int
    has_lepe: bool
    has_mask: bool
    has_weights: bool
    needs_grad: bool
    forward_mode: bool  # inside torch.autograd.forward_ad.dual_level, or torch.func.jvp


def fail(message: str) -> InputError:
    return InputError(f"bi_level_routing_attention: {message}")


def _is_int(value: Any) -> bool:
    return isinstance(value, (Integral, torch.SymInt)) and not isinstance(value, bool)


def check_grid(n_win: int | Sequence[int]) -> Grid:
    """Rows and columns of regions. Raises InputError."""
    if isinstance(n_win, Sequence) and not isinstance(n_win, str) and len(n_win) == 2:
        grid = tuple(n_win)
    else:
        grid = (n_win, n_win)
    if not all(_is_int(count) and count >= 1 for count in grid):
        raise fail(f"n_win must be a number of regions a side, or of rows and of columns, of 1 up, got {n_win!r}")
    return grid


def check(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    n_win: int | Sequence[int],
    topk: int,
    scale: float | None,
    lepe: Tensor | None,
    mask: Tensor | None,
    routing: Routing | Tensor | Sequence[Tensor] | None,
    needs_grad: bool,
    forward_mode: bool,
) -> Call:
    """All checks that depend on shapes, dtypes, devices and options. Raises InputError, a ValueError."""
    if q.ndim != 5:
        raise fail(f"q must be (B, H, W, heads, D), got {q.ndim} axes: {tuple(q.shape)}")
    batch, height, width, heads, channels = q.shape
    kv_size, value_channels = tuple(k.shape[1:3]), v.shape[-1] if v.ndim else 0
    if k.ndim != 5 or tuple(k.shape) != (batch, *kv_size, heads, channels):
        raise fail(f"k must be {(batch, 'any', 'any', heads, channels)} as q is, got {tuple(k.shape)}")
    if tuple(v.shape) != (batch, *kv_size, heads, value_channels):
        raise fail(f"v must be {(batch, *kv_size, heads, 'any')} as k is, got {tuple(v.shape)}")
    if channels == 0 or value_channels == 0:
        raise fail(f"heads need at least one channel, q has {channels} and v {value_channels}")
    if q.dtype not in DTYPES:
        raise fail(f"q must be float16, bfloat16, float32 or float64, got {q.dtype}")
    if lepe is not None and tuple(lepe.shape) != (batch, height, width, heads, value_channels):
        raise fail(
            f"lepe must be {(batch, height, width, heads, value_channels)}, the output's shape, got {tuple(lepe.shape)}"
        )
    for name, tensor in (("k", k), ("v", v), ("lepe", lepe)):
        if tensor is None:
            continue
        if tensor.dtype != q.dtype:
            raise fail(f"{name} is {tensor.dtype}, q {q.dtype}: cast them to one dtype")
        if tensor.device != q.device:
            raise fail(f"{name} is on {tensor.device}, q on {q.device}: move them to one device")

    grid = check_grid(n_win)
    for name, size in (("q", (height, width)), ("k", kv_size)):
        for axis, length, count in zip(("rows", "columns"), size, grid, strict=True):
            if length == 0 or length % count:
                raise fail(
                    f"{name}'s {length} {axis} do not divide into {count} regions: pad the map to a multiple of n_win"
                )
    regions = math.prod(grid)
    if not _is_int(topk) or not 1 <= topk <= regions:
        raise fail(f"topk must be from 1 to the number of regions, {grid[0]} x {grid[1]} = {regions}, got {topk!r}")
    if scale is not None:
        if isinstance(scale, Tensor):
            raise fail("scale must be a number, got a tensor: multiply q by it and give scale=1.0")
        if not -math.inf < scale < math.inf:
            raise fail(f"scale must be finite, got {scale}")
    if mask is not None:
        if mask.dtype != torch.bool or tuple(mask.shape) != (batch, *kv_size):
            raise fail(
                f"mask must be bool {(batch, *kv_size)}, True for the keys that count, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        if mask.device != q.device:
            raise fail(f"mask is on {mask.device}, q on {q.device}: move them to one device")
        if routing is None and kv_size != (height, width):
            raise fail(
                f"mask is of the keys' map {kv_size}, and the queries' is {(height, width)}: there the routing has to "
                "be given; see bestiary.kernels.bi_level_routing.route"
            )
    weights = _check_routing(routing, (batch, regions, topk), q.device)
    return Call(
        q.device, q.dtype, batch, (height, width), kv_size, heads, channels, value_channels, grid, topk,
        lepe is not None, mask is not None, weights, needs_grad, forward_mode,
    )  # fmt: skip


def _check_routing(
    routing: Routing | Tensor | Sequence[Tensor] | None, shape: tuple[int, int, int], device: torch.device
) -> bool:
    """Whether it has weights."""
    if routing is None:
        return False
    index, weights = as_routing(routing)
    if index.dtype != torch.int64 or tuple(index.shape) != shape:
        raise fail(
            f"routing must be int64 (B, regions, topk) = {shape}, numbers of regions, "
            f"got {index.dtype} {tuple(index.shape)}"
        )
    if weights is not None and (not weights.is_floating_point() or tuple(weights.shape) != shape):
        raise fail(
            f"the weights of routing must be floating (B, regions, topk) = {shape}, "
            f"got {weights.dtype} {tuple(weights.shape)}"
        )
    for name, tensor in (("routing", index), ("the weights of routing", weights)):
        if tensor is not None and tensor.device != device:
            raise fail(f"{name} is on {tensor.device}, q on {device}: move them to one device")
    # On a GPU the look would wait for it, in a graph there is nothing to see.
    if index.device.type == "cpu" and index.numel() and not torch.compiler.is_compiling():
        low, high = (int(end) for end in index.aminmax())
        if low < 0 or high >= shape[1]:
            raise fail(f"routing must hold numbers of regions, 0 to {shape[1] - 1}, got {low} to {high}")
    return weights is not None


def as_routing(routing: Routing | Tensor | Sequence[Tensor]) -> Routing:
    """Numbers of regions alone, or with weights, as a `Routing`. Raises InputError."""
    if isinstance(routing, Tensor):
        return Routing(routing)
    if not isinstance(routing, Sequence) or len(routing) != 2 or not isinstance(routing[0], Tensor):
        raise fail(f"routing must be a tensor of regions, or a pair of it and its weights, got {type(routing)}")
    return Routing(*routing)
