"""What all kernels of neighborhood attention are told, brought into their arguments and constants."""

from math import prod
from typing import Any

from torch import Tensor

from .tiling import Axes, Tiling, common_unit


def names(*groups: tuple[str, ...]) -> list[str]:
    """Every integer argument: values must not make new compiled kernels, map sizes least of all."""
    return [name for group in groups for name in group]


def five(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}_{part}" for part in ("b", "0", "1", "2", "h"))


def three(prefix: str) -> tuple[str, ...]:
    return tuple(f"{prefix}{axis}" for axis in range(3))


class Strides:
    """Strides of maps by argument name, divided by the power of two that they share: `unit`, a constant of the kernel.

    Triton vectorises a load where it knows its address to be a multiple of the vector; for head widths such as 24 its
    own specialisation, on multiples of 16, tells it nothing.
    """

    def __init__(self, axes: Axes, **maps: Tensor) -> None:
        self.values: dict[str, int] = {}
        for prefix, tensor in maps.items():
            self._add(five(prefix), axes.strides(tensor))

    def _add(self, named: tuple[str, ...], strides: tuple[int, ...]) -> None:
        self.values |= dict(zip(named, strides, strict=True))

    def add_extra(self, keys: Tensor | None, values: Tensor | None) -> int:
        """Those of the additional tokens; returns how many tokens there are."""
        extra = 0 if keys is None else keys.shape[1]
        for prefix, tensor in (("ek", keys), ("ev", values)):
            named = (f"{prefix}_b", f"{prefix}_m", f"{prefix}_h")
            self._add(named, tuple(tensor.stride()[:3]) if tensor is not None and extra else (0, 0, 0))
        return extra

    def unit(self) -> int:
        return common_unit(*self.values.values())

    def divided(self) -> dict[str, int]:
        unit = self.unit()
        return {name: stride // unit for name, stride in self.values.items()}


def map_arguments(axes: Axes, tile: tuple[int, int, int] | None) -> dict[str, int]:
    """Sizes, dilations, strides of a contiguous map in tokens, and tiles: what all kernels are told of the map."""
    arguments = dict(zip(three("size"), axes.size, strict=True))
    arguments |= dict(zip(three("dil"), axes.dilation, strict=True))
    arguments |= dict(zip(three("line"), axes.token_strides(), strict=True))
    if tile is not None:
        arguments |= dict(zip(three("tiles"), axes.tiles(tile), strict=True))
    return arguments


def bias_strides(axes: Axes) -> dict[str, int]:
    """Between the entries of one head of a contiguous bias table."""
    return dict(zip(three("bias_"), axes.bias_strides(), strict=True))


def bias_arguments(axes: Axes, rel_pos_bias: Tensor | None, untouched: Tensor) -> dict[str, Any]:
    """A contiguous bias table with all its strides; `untouched` takes its place where there is none."""
    if rel_pos_bias is None:
        return {"bias": untouched, "bias_h": 0, **bias_strides(axes)}
    return {"bias": rel_pos_bias, "bias_h": rel_pos_bias.stride(0), **bias_strides(axes)}


def window_constants(axes: Axes) -> dict[str, int]:
    constants: dict[str, int] = dict(zip(three("K"), axes.kernel, strict=True))
    constants |= dict(zip(three("S"), axes.stride, strict=True))
    return constants | {f"C{axis}": int(causal) for axis, causal in enumerate(axes.causal)}


def tile_constants(tiling: Tiling) -> dict[str, int]:
    constants: dict[str, int] = dict(zip(three("T"), tiling.tile, strict=True))
    return constants | {
        "ROWS": tiling.rows,
        "COLUMNS": tiling.columns,
        "BLOCK_D": tiling.channels,
        "BLOCK_E": tiling.value_channels,
    }


def tile_programs(axes: Axes, tiles: Tiling, heads: int) -> int:
    """Programs for one batch item: every tile of every dilation group, for every head."""
    return heads * prod(axes.tiles(tiles.tile)) * prod(axes.dilation)
