"""Convolutions that make a map smaller."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ConvDownsample(nn.Module):
    """A strided convolution on a channels-last map: (B, H, W, C_in) -> (B, ceil(H / s), ceil(W / s), C_out).

    Args:
        pad_input: pad with zeros at the bottom and the right to a multiple of the stride first, so that the output's
            size is rounded up. Without it the convolution's own arithmetic holds, which may drop the last rows.
        norm: a norm of `in_channels` before everything else; None: no norm.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        stride: int,
        padding: int,
        pad_input: bool = True,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.norm = nn.Identity() if norm is None else norm
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding)
        self.pad_input = pad_input

    def forward(self, x: Tensor) -> Tensor:
        return self._reduce(self.norm(x))

    def _reduce(self, x: Tensor) -> Tensor:
        x = x.permute(0, 3, 1, 2)  # a view, in channels_last memory if x is contiguous
        if self.pad_input:
            down, right = (-side % stride for side, stride in zip(x.shape[2:], self.conv.stride, strict=True))
            if down or right:
                x = F.pad(x, (0, right, 0, down))
        return self.conv(x).permute(0, 2, 3, 1)


class ConvStem(ConvDownsample):
    """The same on a picture, with the norm, of `out_channels`, at the end.

    (B, C_in, H, W) -> (B, ceil(H / s), ceil(W / s), C_out).
    """

    def forward(self, x: Tensor) -> Tensor:
        # Three channels are cheap to turn round here; every later layer then finds its memory in order.
        return self.norm(self._reduce(x.contiguous(memory_format=torch.channels_last).permute(0, 2, 3, 1)))
