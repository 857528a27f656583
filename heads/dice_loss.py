"""Dice losses of medical segmentation, as VM-UNet (arXiv:2402.02491) and MHS-VM (arXiv:2406.05992) have them."""

import torch
from torch import Tensor, nn

from ..registry import MODELS


@MODELS.register_module()
class BinaryDiceLoss(nn.Module):
    """1 - (2 |P T| + 1) / (|P| + |T| + 1) of each picture, P the foreground's probability, T 1 where it is; the mean.

    For heads with one output (`out_channels=1`). mmseg's `DiceLoss` takes the background for its target there.

    Args:
        smooth: added above and below, 1 in the papers; pictures with neither P nor T have no loss.
        loss_weight: factor.
        loss_name: how mmseg lists it; it starts with 'loss_'.

    `forward(pred, target)`: logits (B, 1, H, W), labels (B, H, W) of 0, 1 and `ignore_index`.
    """

    def __init__(self, smooth: float = 1.0, loss_weight: float = 1.0, loss_name: str = "loss_dice") -> None:
        super().__init__()
        self.smooth, self.loss_weight, self.loss_name = smooth, loss_weight, loss_name

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = 255) -> Tensor:
        if pred.shape[1] != 1:
            raise ValueError(f"BinaryDiceLoss: takes one output a pixel, got {pred.shape[1]}: set out_channels=1")
        counts = _counts(target, weight, ignore_index)
        found = (pred[:, 0].sigmoid() * counts).flatten(1)
        wanted = ((target == 1) * counts).flatten(1)
        dice = (2 * (found * (target == 1).flatten(1)).sum(1) + self.smooth) / (
            found.sum(1) + wanted.sum(1) + self.smooth
        )
        return self.loss_weight * (1 - dice.mean())


@MODELS.register_module()
class ClassDiceLoss(nn.Module):
    """1 - (2 sum P T + e) / (sum P^2 + sum T^2 + e) of each class over the whole batch; the mean of the classes.

    Args:
        eps: e.
        loss_weight: factor.
        loss_name: how mmseg lists it; it starts with 'loss_'.

    `forward(pred, target)`: logits (B, K, H, W), labels (B, H, W) in 0 .. K - 1, and `ignore_index`.
    """

    def __init__(self, eps: float = 1e-5, loss_weight: float = 1.0, loss_name: str = "loss_dice") -> None:
        super().__init__()
        self.eps, self.loss_weight, self.loss_name = eps, loss_weight, loss_name

    def forward(self, pred: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = 255) -> Tensor:
        counts = _counts(target, weight, ignore_index)[:, None]
        found = pred.softmax(1)
        truth = target[:, None] == torch.arange(pred.shape[1], device=pred.device)[:, None, None]
        over = (0, 2, 3)
        both = (found * truth * counts).sum(over)
        squares = (found.square() * counts).sum(over) + (truth * counts).sum(over)
        dice = (2 * both + self.eps) / (squares + self.eps)
        return self.loss_weight * (1 - dice.mean())


def _counts(target: Tensor, weight: Tensor | None, ignore_index: int) -> Tensor:
    """How much each pixel counts, (B, H, W)."""
    counts = (target != ignore_index).float()
    return counts if weight is None else counts * weight
