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


def _phases(tensor: Tensor, groups: int, scale: int) -> Tensor:
    """(B, G * N, H * S, W * S) -> (B, G, S * S, N, H, W): output pixels by their place in their input pixel.

    Laid out so in memory: with S in the innermost axes the sums of the backward take several times as long on a CPU.
    """
    blocks = F.pixel_unshuffle(tensor, scale).unflatten(1, (groups, -1, scale * scale))
    return blocks.transpose(2, 3).contiguous()


def _unphased(phases: Tensor, scale: int) -> Tensor:
    """The inverse of `_phases`."""
    return F.pixel_shuffle(phases.transpose(2, 3).flatten(1, 3), scale)


def _places(padded: Tensor, kernel: int) -> Iterator[Tensor]:
    """Views (B, G, 1, C, H, W) of the padded features, one for each place of the kernel in its order."""
    height, width = (side - kernel + 1 for side in padded.shape[-2:])
    for top in range(kernel):
        for left in range(kernel):
            yield padded[:, :, None, :, top : top + height, left : left + width]


def _padded(features: Tensor, groups: int, kernel: int) -> Tensor:
    return F.pad(features, [(kernel - 1) // 2] * 4).unflatten(1, (groups, -1))


def _reassemble(features: Tensor, masks: Tensor, output: Tensor, kernel: int, groups: int, scale: int) -> None:
    features, masks = widened(features, masks)
    kernels = _phases(masks, groups, scale)
    total = features.new_zeros(*kernels.shape[:3], features.shape[1] // groups, *features.shape[2:])
    for place, seen in enumerate(_places(_padded(features, groups, kernel), kernel)):
        total.addcmul_(seen, kernels[:, :, :, place : place + 1])
    output.copy_(_unphased(total, scale))


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
    kernels, d_phases = _phases(masks, groups, scale), _phases(grad, groups, scale)
    padded = _padded(features, groups, kernel)
    d_padded, d_kernels = torch.zeros_like(padded), torch.zeros_like(kernels)
    for place, (seen, d_seen) in enumerate(zip(_places(padded, kernel), _places(d_padded, kernel), strict=True)):
        d_seen += (d_phases * kernels[:, :, :, place : place + 1]).sum(dim=2, keepdim=True)
        d_kernels[:, :, :, place] = (d_phases * seen).sum(dim=3)
    border = (kernel - 1) // 2
    height, width = features.shape[2:]
    d_features = d_padded.flatten(1, 2)[:, :, border : border + height, border : border + width]
    grad_features += d_features.to(grad_features.dtype)
    grad_masks += _unphased(d_kernels, scale).to(grad_masks.dtype)


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
