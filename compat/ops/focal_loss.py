"""Focal loss (arXiv:1708.02002) over sigmoids and over a softmax, forward and backward.

N samples, C classes, `target` (N,) int64, `weight` (C,) or empty for none. In the sigmoid loss label C means no class,
in the softmax loss a negative label means "do not count".
"""

import torch
from torch import Tensor

from ...errors import InputError
from .calling import widened

TINY = torch.finfo(torch.float32).tiny  # the logarithm's argument is kept above it, whatever the dtype


def _checked(name: str, target: Tensor, highest: int, lowest: int | None = None) -> Tensor:
    """`target`, if its labels are in range."""
    if target.numel():
        low, high = (int(edge) for edge in target.aminmax())
        if high > highest or (lowest is not None and low < lowest):
            floor = "" if lowest is None else f"at least {lowest} and "
            raise InputError(
                f"{name}: target holds labels from {low} to {high}, they must be {floor}at most {highest}: "
                "does num_classes of the model fit the data set?"
            )
    return target


def _sigmoid_sides(input: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Probabilities (N, C), whether each is of its sample's label, and weights that broadcast to (N, C)."""
    classes = input.shape[1]
    if weight.numel():
        _checked("sigmoid_focal_loss with class weights", target, classes - 1, 0)
        factor = weight[target][:, None]
    else:
        _checked("sigmoid_focal_loss", target, classes)
        factor = input.new_ones(1, 1)
    return input.sigmoid(), target[:, None] == torch.arange(classes, device=target.device), factor


def sigmoid_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the loss of each logit into `output` (N, C)."""
    logits, factor = widened(input, weight)
    p, hit, factor = _sigmoid_sides(logits, target, factor)
    q = 1 - p
    loss_hit = -alpha * q**gamma * p.clamp(min=TINY).log()
    loss_miss = -(1 - alpha) * p**gamma * q.clamp(min=TINY).log()
    output.copy_(torch.where(hit, loss_hit, loss_miss) * factor)


def sigmoid_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivative of each loss by its logit into `grad_input` (N, C)."""
    logits, factor = widened(input, weight)
    p, hit, factor = _sigmoid_sides(logits, target, factor)
    q = 1 - p
    d_hit = -alpha * q**gamma * (q - gamma * p * p.clamp(min=TINY).log())
    d_miss = -(1 - alpha) * p**gamma * (gamma * q * q.clamp(min=TINY).log() - p)
    grad_input.copy_(torch.where(hit, d_hit, d_miss) * factor)


def _softmax_sides(softmax: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of each sample: its label, or 0; the probability of it; its weight, 0 where it does not count. All (N, 1)."""
    _checked("softmax_focal_loss", target, softmax.shape[1] - 1)
    label = target.clamp(min=0)
    factor = (weight[label] if weight.numel() else softmax.new_ones(len(target))) * (target >= 0)
    return label[:, None], softmax.gather(1, label[:, None]), factor[:, None]


def softmax_focal_loss_forward(
    input: Tensor, target: Tensor, weight: Tensor, output: Tensor, gamma: float, alpha: float
) -> None:
    """Write the losses (N,); `input` are probabilities (N, C)."""
    _, p, factor = _softmax_sides(*_wide_with(input, target, weight))
    output.copy_((-alpha * (1 - p) ** gamma * p.clamp(min=TINY).log() * factor)[:, 0])


def softmax_focal_loss_backward(
    input: Tensor, target: Tensor, weight: Tensor, buff: Tensor, grad_input: Tensor, gamma: float, alpha: float
) -> None:
    """Write the derivatives by the logits into `grad_input` (N, C); `buff` (N,) gets what a sample's row shares."""
    softmax, target, weight = _wide_with(input, target, weight)
    label, p, factor = _softmax_sides(softmax, target, weight)
    q = 1 - p
    shared = alpha * (gamma * q ** (gamma - 1) * p * p.clamp(min=TINY).log() - q**gamma) * factor
    buff.copy_(shared[:, 0])
    grad_input.copy_(shared * (torch.zeros_like(softmax).scatter_(1, label, 1) - softmax))


def _wide_with(softmax: Tensor, target: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    softmax, weight = widened(softmax, weight)
    return softmax, target, weight
