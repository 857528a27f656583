"""Orders in which a scan meets the tokens of a map, made for any height and width and kept a size and device.

L tokens of an H x W map, in row order: token number = row * W + column.
"""

import difflib
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor


def _raster(row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """Row by row, left to right."""
    return row * width + column


def _continuous(row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """Row by row, the even ones left to right, the odd ones back."""
    return row * width + torch.where(row % 2 == 0, column, width - 1 - column)


def _diagonal(row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """Diagonals from the top left corner, the odd ones downwards, the even ones upwards."""
    diagonal = row + column
    return diagonal * height + torch.where(diagonal % 2 == 1, row, height - 1 - row)


def _spiral(row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """Clockwise inwards from the top left corner."""
    down, right = height - 1 - row, width - 1 - column  # to the lower and the right edge
    ring = torch.minimum(torch.minimum(row, down), torch.minimum(column, right))
    rows, columns = height - 1 - 2 * ring, width - 1 - 2 * ring  # steps along the ring's sides
    place = 2 * columns + rows + (down - ring)  # on the left side, upwards
    place = torch.where(down == ring, columns + rows + (right - ring), place)
    place = torch.where(right == ring, columns + (row - ring), place)
    place = torch.where(row == ring, column - ring, place)
    return ring * (2 * (height + width)) + place


def _with_reverse(first: Tensor, second: Tensor) -> list[Tensor]:
    return [first, first.flip(0), second, second.flip(0)]


def _turned(place: Callable[..., Tensor], row: Tensor, column: Tensor, height: int, width: int) -> Tensor:
    """The same with rows for columns."""
    return place(column, row, width, height)


# Of a pattern the two routes that are walked to and fro, each as (place in the route) of (row, column, H, W).
PATTERNS: dict[str, tuple[Callable[..., Tensor], Callable[..., Tensor]]] = {
    "continuous": (_continuous, lambda *at: _turned(_continuous, *at)),
    "diagonal": (_diagonal, lambda row, column, height, width: _diagonal(row, width - 1 - column, height, width)),
    "spiral": (_spiral, lambda row, column, height, width: _spiral(height - 1 - row, column, height, width)),
    "raster": (_raster, lambda *at: _turned(_raster, *at)),
}
ROUTES_OF_A_PATTERN = 4


def check_patterns(who: str, patterns: tuple[str, ...]) -> None:
    """Raises ValueError where one is not known, or there is none."""
    if not patterns:
        raise ValueError(f"{who}: no scan pattern given; there are {', '.join(PATTERNS)}")
    for pattern in patterns:
        if pattern not in PATTERNS:
            near = difflib.get_close_matches(str(pattern), PATTERNS, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"{who}: no scan pattern {pattern!r}; there are {', '.join(PATTERNS)}{hint}")


def scan_table(patterns: tuple[str, ...], height: int, width: int, device: torch.device) -> Tensor:
    """The routes of each pattern: its first, the first reversed, its second, the second reversed.

    Args:
        patterns: names of `PATTERNS`.

    Returns:
        (4 * patterns, L), int64: the tokens in the order in which each route meets them; a permutation a row.
    """
    # A compiler, an exporter and shapes alone bring tensors that must not be kept.
    if torch.compiler.is_compiling() or device.type == "meta":
        return _make(patterns, height, width, device)
    return _kept(patterns, height, width, device)


@lru_cache(maxsize=256)
def _kept(patterns: tuple[str, ...], height: int, width: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # else a table made in inference could not be used in training
        return _make(patterns, height, width, device)


def _make(patterns: tuple[str, ...], height: int, width: int, device: torch.device) -> Tensor:
    row = torch.arange(height, device=device)[:, None].expand(height, width).flatten()
    column = torch.arange(width, device=device)[None, :].expand(height, width).flatten()
    table = []
    for pattern in patterns:
        places = (place(row, column, height, width) for place in PATTERNS[pattern])
        table += _with_reverse(*(place.argsort() for place in places))
    return torch.stack(table)
