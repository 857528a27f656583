"""Convolution at chosen positions only (guided anchoring, arXiv:1901.03278): gather patches, scatter results.

M chosen positions, C channels. mmcv calls these with one picture, stride 1 and no dilation, and without gradients.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from ...errors import InputError


def masked_im2col_forward(
    im: Tensor,
    mask_h_idx: Tensor,
    mask_w_idx: Tensor,
    col: Tensor,
    kernel_h: int,
    kernel_w: int,
    pad_h: int,
    pad_w: int,
) -> None:
    """Patches of `im` (1, C, H, W), each with its corner `pad` before a chosen position -> `col` (C * kh * kw, M)."""
    # The corners start at most at the last pixel: this much padding after it lets every patch end inside.
    padded = F.pad(im[0], (pad_w, kernel_w - 1, pad_h, kernel_h - 1))
    rows = mask_h_idx + torch.arange(kernel_h, device=im.device)[:, None]
    columns = mask_w_idx + torch.arange(kernel_w, device=im.device)[:, None]
    col.copy_(padded[:, rows[:, None], columns[None, :]].reshape(col.shape))


def masked_col2im_forward(
    col: Tensor, mask_h_idx: Tensor, mask_w_idx: Tensor, im: Tensor, height: int, width: int, channels: int
) -> None:
    """Write `col` (C, M) to the chosen positions of `im` (1, C, height, width); the rest stays as it is."""
    if mask_h_idx.numel() and (int(mask_h_idx.max()) >= height or int(mask_w_idx.max()) >= width):
        raise InputError(
            f"masked_conv2d: the mask has points outside of the output of {height} x {width}: "
            "take a padding that keeps the size, (kernel_size - 1) / 2"
        )
    im[0, :, mask_h_idx, mask_w_idx] = col
