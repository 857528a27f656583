"""Block attention and grid attention (MaxViT, arXiv:2204.01697), for maps of any size.

Both are softmax attention among groups of tokens, with a learned bias for each relative position. A group is a window
of neighbours (block), or a lattice of tokens that lie evenly over the map (grid). Where the window does not divide the
map, the published networks have no answer; here the groups at the end are smaller, which equals padding the map and
leaving the padding out of the softmax, without the memory for either.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from timm.layers import trunc_normal_
from torch import Tensor, nn

from ...registry import MIXERS
from ..layers.linear import Linear

RESIZES = ("bilinear", "geometric")


def table_positions(source: int, target: int, resize: str) -> tuple[float, ...]:
    """Where on an axis of `source` entries each of `target` entries lies, counted in entries; both odd.

    'bilinear' stretches the axis evenly (half-pixel centres). 'geometric' keeps near distances and lets the spacing of
    the known entries grow by a constant ratio, which is between 1.01 and 1.5 (BEiT, arXiv:2106.08254).
    """
    if resize == "bilinear":
        raw = ((entry + 0.5) * source / target - 0.5 for entry in range(target))
        return tuple(min(max(position, 0.0), source - 1.0) for position in raw)
    known, wanted = source // 2, target // 2
    low, high, ratio = 1.01, 1.5, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if sum(ratio**step for step in range(known)) > wanted:
            high = ratio
        else:
            low = ratio
    knots = [0.0]
    for step in range(known):
        knots.append(knots[-1] + ratio**step)
    side = []
    for distance in range(wanted + 1):
        below = sum(knot <= distance for knot in knots) - 1
        share = (distance - knots[below]) / (knots[below + 1] - knots[below]) if below < known else 0.0
        side.append(below + share)
    return tuple([known - position for position in side[:0:-1]] + [known + position for position in side])


_known_positions = functools.lru_cache(maxsize=1024)(table_positions)


def resize_table(table: Tensor, window: tuple[int, int], resize: str = "bilinear") -> Tensor:
    """A bias table (..., 2h - 1, 2w - 1) of one window brought to another's relative positions.

    Args:
        table: biases, zero distance in the middle.
        window: (P, Q) -> (..., 2P - 1, 2Q - 1).
        resize: 'bilinear', as the authors fine-tune at other sizes, or 'geometric', as timm does.
    """
    find = table_positions if torch.compiler.is_compiling() else _known_positions  # tracing would warn of the cache
    for axis, side in ((-2, window[0]), (-1, window[1])):
        source, target = table.shape[axis], 2 * side - 1
        if source != target:
            positions = torch.tensor(find(source, target, resize), dtype=table.dtype, device=table.device)
            entries = torch.arange(source, dtype=table.dtype, device=table.device)
            weights = (1 - (positions[:, None] - entries).abs()).clamp_min(0)  # between neighbours, linearly
            table = weights @ table if axis == -2 else table @ weights.T
    return table


def _spread(table: Tensor, size: tuple[int, int]) -> Tensor:
    """(heads, 2A - 1, 2B - 1) biases of key less query -> (heads, A * B, A * B), a bias for each pair of tokens."""
    rows, columns = size
    # At [k, l, x, y] stands the bias of distance (x - A + 1 + k, y - B + 1 + l): the query is (A - 1 - k, B - 1 - l).
    pairs = table.unfold(1, rows, 1).unfold(2, columns, 1).flip(1, 2)
    return pairs.reshape(len(table), rows * columns, rows * columns)


class RelativePositionTable(nn.Module):
    """A learned bias for each head and each distance of key less query.

    Args:
        num_heads: heads.
        window: of the table (heads, 2P - 1, 2Q - 1).
        resize: how a table serves another window, see `resize_table`.
    """

    NO_WEIGHT_DECAY = ("table",)

    def __init__(self, num_heads: int, window: tuple[int, int], resize: str = "bilinear") -> None:
        super().__init__()
        self.resize = resize
        self.table = nn.Parameter(torch.empty(num_heads, 2 * window[0] - 1, 2 * window[1] - 1))
        trunc_normal_(self.table, std=0.02)

    def forward(self, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Biases (heads, A * B, A * B) among the first A x B tokens of a window of P x Q."""
        # Computed anew each time: next to the attention it is little, and so it is never out of date.
        table = resize_table(self.table, window, self.resize)
        rows, columns = (side - part for side, part in zip(window, size, strict=True))
        return _spread(table[:, rows : table.shape[1] - rows, columns : table.shape[2] - columns], size)


class RelativePositionMlp(nn.Module):
    """A bias for each head out of the distance's logarithm, by a small network (after Swin V2, arXiv:2111.09883).

    Args:
        num_heads: heads.
        hidden_dim: width of the hidden layer.
        dropout: rate of dropout on the hidden layer, in 0..1.
    """

    def __init__(self, num_heads: int, hidden_dim: int = 512, dropout: float = 0.125) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(2, hidden_dim), nn.Linear(hidden_dim, num_heads)
        self.dropout = nn.Dropout(dropout)

    def forward(self, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
        """Biases (heads, A * B, A * B) of A x B tokens; any window gives the same."""
        kind = dict(dtype=self.fc1.weight.dtype, device=self.fc1.weight.device)
        rows, columns = (torch.arange(side - 1, -side, -1, **kind) for side in size)  # the query less the key
        distances = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        logs = distances.sign() * (1 + distances.abs()).log()
        table = self.fc2(self.dropout(F.relu(self.fc1(logs))))
        return _spread(table.permute(2, 0, 1), size)


class AxisGroups(NamedTuple):
    """One side of a map, cut into groups of tokens: `full` groups of `size`, then `small` ones of `size_small`."""

    size: int
    full: int
    size_small: int
    small: int

    @property
    def padded(self) -> int:
        """Tokens of the side if the small groups were filled up."""
        return self.size * (self.full + self.small)

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """First group, end, and tokens of a group, for each kind of group that there is."""
        parts = [(0, self.full, self.size), (self.full, self.full + self.small, self.size_small)]
        return [part for part in parts if part[1] > part[0]]


class PartitionAttention(nn.Module):
    """Attention within groups of tokens; what the groups are is the subclass's `groups` and `axes`."""

    # Of the padded map as (B, rows, rows, columns, columns, C): groups of rows and columns, then tokens of a group.
    axes: tuple[int, int, int, int]

    def __init__(
        self,
        dim: int,
        window_size: int | Sequence[int] = 7,
        num_windows: int | None = None,
        head_dim: int = 32,
        table_window: int | Sequence[int] | None = None,
        table_resize: str = "bilinear",
        rel_pos: str = "table",
        rel_pos_dim: int = 512,
    ) -> None:
        super().__init__()
        who = type(self).__name__
        if dim % head_dim:
            raise ValueError(f"{who}: dim {dim} is not divisible by head_dim {head_dim}")
        if table_resize not in RESIZES:
            raise ValueError(f"{who}: no table_resize {table_resize!r}; there are {', '.join(RESIZES)}")
        if num_windows is not None and num_windows < 1:
            raise ValueError(f"{who}: num_windows {num_windows} must be at least 1")
        self.window_size, self.num_windows = _pair(who, "window_size", window_size), num_windows
        self.num_heads, self.scale = dim // head_dim, head_dim**-0.5
        self.qkv, self.proj = Linear(dim, 3 * dim), Linear(dim, dim)
        if rel_pos == "table":
            table = self.window_size if table_window is None else _pair(who, "table_window", table_window)
            self.rel_pos = RelativePositionTable(self.num_heads, table, table_resize)
        elif rel_pos == "mlp":
            self.rel_pos = RelativePositionMlp(self.num_heads, rel_pos_dim)
        else:
            raise ValueError(f"{who}: no rel_pos {rel_pos!r}; there are table, mlp")

    def groups(self, side: int, window: int) -> AxisGroups:
        """How a side of the map is cut, where a window has `window` tokens on that side."""
        raise NotImplementedError(f"{type(self).__name__} does not define groups")

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, W, C) -> (B, H, W, C)."""
        batch, height, width, dim = x.shape
        window = self.window_size
        if self.num_windows is not None:
            window = -(-height // self.num_windows), -(-width // self.num_windows)
        rows, columns = self.groups(height, window[0]), self.groups(width, window[1])
        down, right = rows.padded - height, columns.padded - width
        if down or right:
            x = F.pad(x, (0, 0, 0, right, 0, down))
        order = (0, *self.axes, 5)
        x = self._unfold(x, rows, columns).permute(order)
        bands = []
        for top, bottom, tall in rows.parts:
            band = []
            for left, end, wide in columns.parts:
                tokens = x[:, top:bottom, left:end, :tall, :wide]
                bias = self.rel_pos(window, (tall, wide))
                count = batch * (bottom - top) * (end - left)
                tokens = self._attend(tokens.reshape(count, tall * wide, dim), bias).view(tokens.shape)
                if wide < columns.size:
                    tokens = F.pad(tokens, (0, 0, 0, columns.size - wide))
                band.append(tokens)
            tokens = torch.cat(band, dim=2) if len(band) > 1 else band[0]
            if tall < rows.size:
                tokens = F.pad(tokens, (0, 0, 0, 0, 0, rows.size - tall))
            bands.append(tokens)
        x = torch.cat(bands, dim=1) if len(bands) > 1 else bands[0]
        back = sorted(range(6), key=order.__getitem__)
        x = x.permute(back).reshape(batch, rows.padded, columns.padded, dim)
        return x[:, :height, :width].contiguous() if down or right else x

    def _unfold(self, x: Tensor, rows: AxisGroups, columns: AxisGroups) -> Tensor:
        """(B, H, W, C) -> (B, a, b, c, d, C), where one of a and b is tokens of a group, the other groups; c, d too."""
        sides = {self.axes[0]: rows.full + rows.small, self.axes[2]: rows.size}
        sides |= {self.axes[1]: columns.full + columns.small, self.axes[3]: columns.size}
        return x.view(len(x), sides[1], sides[2], sides[3], sides[4], x.shape[-1])

    def _attend(self, x: Tensor, bias: Tensor) -> Tensor:
        """Attention within each group: (groups, tokens, C) -> the same."""
        groups, tokens, dim = x.shape
        q, k, v = self.qkv(x).view(groups, tokens, 3, self.num_heads, dim // self.num_heads).permute(2, 0, 3, 1, 4)
        if bias.requires_grad and x.device.type == "cpu" and not torch.compiler.is_compiling():
            # The fused operator for CPUs has no derivative by the bias; what stands in for it takes more passes.
            x = ((q * self.scale) @ k.mT).add_(bias).softmax(dim=-1) @ v
        else:
            x = F.scaled_dot_product_attention(q, k, v, attn_mask=bias[None].to(q.dtype), scale=self.scale)
        return self.proj(x.transpose(1, 2).reshape(groups, tokens, dim))


_ARGS = """
    (B, H, W, C) -> (B, H, W, C), any H and W.

    Args:
        dim: channels.
        window_size: tokens of a group, by rows and columns: a number or a pair.
        num_windows: if given, groups follow the map instead: ceil(H / num_windows) x ceil(W / num_windows) tokens.
        head_dim: channels of a head; divides `dim`.
        table_window: window that the table of relative positions is of, `window_size` by default. For windows of
            another size the table is resized.
        table_resize: 'bilinear' or 'geometric', see `resize_table`.
        rel_pos: 'table', or 'mlp' for biases out of a small network, which needs no table.
        rel_pos_dim: width of that network.

    Raises:
        ValueError: `dim` is not divisible by `head_dim`; a size below 1; no such `table_resize` or `rel_pos`.
    """


@MIXERS.register_module()
class BlockAttention(PartitionAttention):
    __doc__ = f"""Attention within windows of neighbours, cut from the top left; the last ones may be smaller.
{_ARGS}"""
    axes = (1, 3, 2, 4)

    def groups(self, side: int, window: int) -> AxisGroups:
        window = min(window, side)
        full, rest = divmod(side, window)
        return AxisGroups(window, full, rest, int(rest > 0))


@MIXERS.register_module()
class GridAttention(PartitionAttention):
    __doc__ = f"""Attention among tokens at even distances: `window_size` of them on each side, spread over the map.

    The distance is ceil(H / window) rows; where it does not divide H, the last groups have a token less.
{_ARGS}"""
    axes = (2, 4, 1, 3)

    def groups(self, side: int, window: int) -> AxisGroups:
        step = -(-side // min(window, side))
        least, more = divmod(side, step)
        return AxisGroups(least + 1, more, least, step - more) if more else AxisGroups(least, step, 0, 0)


def _pair(who: str, name: str, value: int | Sequence[int]) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or min(pair) < 1:
        raise ValueError(f"{who}: {name} {value!r} must be a number of tokens, or two of them, of at least 1")
    return pair
