"""Maps cut into windows, and put together again. Letters: B batch, H and W of the map, C channels, h and w of a window,
N windows of a map."""

import torch.nn.functional as F
from torch import Tensor


def pad_to_multiple(x: Tensor, multiple: tuple[int, int]) -> Tensor:
    """(B, H, W, C) -> the same with zeros at the bottom and the right, H and W rounded up to multiples."""
    down, right = -x.shape[1] % multiple[0], -x.shape[2] % multiple[1]
    return F.pad(x, (0, 0, 0, right, 0, down)) if down or right else x


def crop(x: Tensor, size: tuple[int, int]) -> Tensor:
    """The first rows and columns of (B, H, W, C), as many as `size` says: the reverse of padding, a view."""
    return x[:, : size[0], : size[1]]


def window_partition(x: Tensor, window: tuple[int, int]) -> Tensor:
    """(B, H, W, C) -> (B * N, h * w, C), windows in row order; H and W are multiples of the window's sides.

    A copy, but for maps that are one window, or one window wide.
    """
    batch, height, width, channels = x.shape
    rows, columns = height // window[0], width // window[1]
    x = x.reshape(batch, rows, window[0], columns, window[1], channels).transpose(2, 3)
    return x.reshape(batch * rows * columns, window[0] * window[1], channels)


def window_reverse(windows: Tensor, window: tuple[int, int], size: tuple[int, int]) -> Tensor:
    """(B * N, h * w, C) -> (B, H, W, C): the reverse of `window_partition` for a map of `size` (H, W)."""
    rows, columns = size[0] // window[0], size[1] // window[1]
    batch, channels = windows.shape[0] // (rows * columns), windows.shape[-1]
    x = windows.reshape(batch, rows, columns, window[0], window[1], channels).transpose(2, 3)
    return x.reshape(batch, *size, channels)
