"""The attention maps of PSANet (Zhao et al., ECCV 2018) from masks that are centred on each position.

Letters: B batch, H and W of the feature map, h and w of the mask. Masks (B, h * w, H, W) hold for every position the
attention to its surroundings; the maps (B, H * W, H, W) hold it for every pair of positions, zero outside of the mask.
"Collect" (0) has the other position in the first axis, "distribute" (1) has it in the last two.
"""

import torch
from torch import Tensor

COLLECT, DISTRIBUTE = 0, 1


def _shifted(tensor: Tensor, size: tuple[int, int], shift: tuple[int, int], sign: int) -> Tensor:
    """(B, a, b, H, W) -> (B, *size, H, W): entry i at position p is taken from i + sign * (p - shift), or is zero."""
    height, width = tensor.shape[3:]
    taken, inside = [], []
    for axis, positions in enumerate((height, width)):
        target = torch.arange(size[axis], device=tensor.device)[:, None]
        source = target + sign * (torch.arange(positions, device=tensor.device) - shift[axis])
        inside.append((source >= 0) & (source < tensor.shape[1 + axis]))
        taken.append(source.clamp(0, tensor.shape[1 + axis] - 1))
    rows, columns = (torch.arange(n, device=tensor.device) for n in (height, width))
    moved = tensor[:, taken[0][:, None, :, None], taken[1][None, :, None, :], rows[:, None], columns]
    return moved * (inside[0][:, None, :, None] & inside[1][None, :, None, :])


def psamask_forward(
    input: Tensor,
    output: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the maps of the masks `input` into `output`."""
    masks = input.unflatten(1, (h_mask, w_mask))
    maps = _shifted(masks, (h_feature, w_feature), (half_h_mask, half_w_mask), -1)  # (B, other, other, H, W)
    if psa_type == DISTRIBUTE:
        maps = maps.permute(0, 3, 4, 1, 2)
    output.copy_(maps.flatten(1, 2))


def psamask_backward(
    grad_output: Tensor,
    grad_input: Tensor,
    psa_type: int,
    num_: int,
    h_feature: int,
    w_feature: int,
    h_mask: int,
    w_mask: int,
    half_h_mask: int,
    half_w_mask: int,
) -> None:
    """Write the gradient of the masks into `grad_input`."""
    maps = grad_output.unflatten(1, (h_feature, w_feature))
    if psa_type == DISTRIBUTE:
        maps = maps.permute(0, 3, 4, 1, 2)
    grad_input.copy_(_shifted(maps, (h_mask, w_mask), (half_h_mask, half_w_mask), 1).flatten(1, 2))
