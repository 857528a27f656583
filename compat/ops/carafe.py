"""CARAFE, upsampling by a kernel that is predicted for every output pixel (arXiv:1905.02188).

Letters: B batch, G groups of C channels, K kernel size, S scale. `features` (B, G * C, H, W), `masks`
(B, G * K * K, H * S, W * S), output (B, G * C, H * S, W * S). A pass for each of the K * K places of the kernel:
unfolded features would need K * K times their memory.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from .calling import widened


def _blocks(tensor: Tensor, groups: int, scale: int) -> Tensor:
    """(B, G * N, H * S, W * S) -> (B, G, N, H, S, W, S): the output pixels of each input pixel side by side."""
    return tensor.unflatten(1, (groups, -1)).unflatten(4, (-1, scale)).unflatten(3, (-1, scale))


def _places(padded: Tensor, kernel: int) -> Iterator[Tensor]:
    """Views (B, G, C, H, 1, W, 1) of the padded features, one for each place of the kernel in its order."""
    height, width = (side - kernel + 1 for side in padded.shape[-2:])
    for top in range(kernel):
        for left in range(kernel):
            yield padded[..., top : top + height, left : left + width][..., :, None, :, None]


def _padded(features: Tensor, groups: int, kernel: int) -> Tensor:
    return F.pad(features, [(kernel - 1) // 2] * 4).unflatten(1, (groups, -1))


def _reassemble(features: Tensor, masks: Tensor, output: Tensor, kernel: int, groups: int, scale: int) -> None:
    features, masks = widened(features, masks)
    kernels = _blocks(masks, groups, scale)
    total = features.new_zeros(output.shape)
    blocks = _blocks(total, groups, scale)  # a view: adding to it adds to the total
    for place, seen in enumerate(_places(_padded(features, groups, kernel), kernel)):
        blocks.addcmul_(seen, kernels[:, :, place : place + 1])
    output.copy_(total)


def _reassemble_backward(
    grad_output: Tensor,
    features: Tensor,
    masks: Tensor,
    grad_features: Tensor,
    grad_masks: Tensor,
    kernel: int,
    groups: int,
    scale: int,
) -> None:
    grad, features, masks = widened(grad_output, features, masks)
    kernels, d_blocks = _blocks(masks, groups, scale), _blocks(grad, groups, scale)
    padded = _padded(features, groups, kernel)
    d_padded, d_masks = torch.zeros_like(padded), torch.zeros_like(masks)
    d_kernels = _blocks(d_masks, groups, scale)
    for place, (seen, d_seen) in enumerate(zip(_places(padded, kernel), _places(d_padded, kernel), strict=True)):
        d_seen += (d_blocks * kernels[:, :, place : place + 1]).sum(dim=(4, 6), keepdim=True)
        d_kernels[:, :, place] = (d_blocks * seen).sum(dim=2)
    border = (kernel - 1) // 2
    height, width = features.shape[2:]
    d_features = d_padded.flatten(1, 2)[:, :, border : border + height, border : border + width]
    grad_features += d_features.to(grad_features.dtype)
    grad_masks += d_masks.to(grad_masks.dtype)


def carafe_forward(
    features: Tensor,
    masks: Tensor,
    rfeatures: Tensor,
    routput: Tensor,
    rmasks: Tensor,
    output: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Write `output`. `rfeatures` takes a copy of the features, which the backward gets; the other two are not used."""
    _reassemble(features, masks, output, kernel_size, group_size, scale_factor)
    rfeatures.copy_(features)


def carafe_backward(
    top_grad: Tensor,
    rfeatures: Tensor,
    masks: Tensor,
    rtop_grad: Tensor,
    rbottom_grad_hs: Tensor,
    rbottom_grad: Tensor,
    rmask_grad: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add to `bottom_grad` and `mask_grad`; the other gradients are the compiled operator's scratch memory."""
    _reassemble_backward(top_grad, rfeatures, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)


def carafe_naive_forward(
    features: Tensor, masks: Tensor, output: Tensor, kernel_size: int, group_size: int, scale_factor: int
) -> None:
    """Write `output`: the same operator without scratch memory."""
    _reassemble(features, masks, output, kernel_size, group_size, scale_factor)


def carafe_naive_backward(
    top_grad: Tensor,
    features: Tensor,
    masks: Tensor,
    bottom_grad: Tensor,
    mask_grad: Tensor,
    kernel_size: int,
    group_size: int,
    scale_factor: int,
) -> None:
    """Add to `bottom_grad` and `mask_grad`."""
    _reassemble_backward(top_grad, features, masks, bottom_grad, mask_grad, kernel_size, group_size, scale_factor)
