"""Deformable convolution, plain (arXiv:1703.06211) and modulated (arXiv:1811.11168), by torchvision's operator.

Letters: B batch, H and W of the output, G groups of channels that share offsets. `offset` is (B, G * 2 * kh * kw, H, W)
and `mask` (B, G * kh * kw, H, W). The compiled operators work through the batch in steps of `im2col_step`; that number
changes nothing in the result and is not needed here.
"""

import torch
import torchvision  # noqa: F401  registers torch.ops.torchvision
from torch import Tensor

from ...errors import InputError
from .calling import widened

_conv = torch.ops.torchvision.deform_conv2d
_conv_backward = torch.ops.torchvision._deform_conv2d_backward


def _plain(input: Tensor, offset: Tensor, weight: Tensor, *grad: Tensor) -> tuple[Tensor, ...]:
    """The tensors widened and the empty mask and bias of a convolution without them."""
    input, offset, weight, *grad = widened(input, offset, weight, *grad)
    return (*grad, input, weight, offset, input.new_zeros(input.shape[0], 1), input.new_zeros(weight.shape[0]))


def deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    offset: Tensor,
    output: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Write the convolution into `output`."""
    settings = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False)
    output.copy_(_conv(*_plain(input, offset, weight), *settings))


def deform_conv_backward_input(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradInput: Tensor,
    gradOffset: Tensor,
    weight: Tensor,
    columns: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    im2col_step: int,
) -> None:
    """Add to `gradInput`, write `gradOffset`.

    torchvision computes the weight's gradient in the same go: it is left in `columns`, which mmcv hands to
    `deform_conv_backward_parameters` next.
    """
    settings = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False)
    d_input, d_weight, d_offset, _, _ = _conv_backward(*_plain(input, offset, weight, gradOutput), *settings)
    gradInput += d_input.to(gradInput.dtype)
    gradOffset.copy_(d_offset)
    columns.resize_(d_weight.shape).copy_(d_weight)


def deform_conv_backward_parameters(
    input: Tensor,
    offset: Tensor,
    gradOutput: Tensor,
    gradWeight: Tensor,
    columns: Tensor,
    ones: Tensor,
    kW: int,
    kH: int,
    dW: int,
    dH: int,
    padW: int,
    padH: int,
    dilationW: int,
    dilationH: int,
    group: int,
    deformable_group: int,
    scale: float,
    im2col_step: int,
) -> None:
    """Add `scale` times the gradient to `gradWeight`."""
    if columns.shape == gradWeight.shape:  # deform_conv_backward_input has been here
        d_weight = columns.clone()
        columns.resize_(0)
    else:
        settings = (dH, dW, padH, padW, dilationH, dilationW, group, deformable_group, False)
        # Any weight will do: its own gradient does not depend on it.
        d_weight = _conv_backward(*_plain(input, offset, gradWeight, gradOutput), *settings)[1]
    gradWeight += scale * d_weight.to(gradWeight.dtype)


def _fitted(tensor: Tensor, name: str, channels: int, size: torch.Size) -> Tensor:
    """`tensor` as (B, channels, H, W) of the output's size.

    Compiled mmcv reads a sample's offsets from memory as if they had the output's size, whatever size they have, and
    DyHead (arXiv:2106.08322) hands over larger ones: the published weights were trained with what that gives.
    """
    wanted = (tensor.shape[0], channels, *size)
    if tensor.shape == wanted:
        return tensor
    if tensor[0].numel() < channels * size.numel():
        raise InputError(
            f"modulated_deform_conv2d: {name} is {tuple(tensor.shape)}, too small for an output of {tuple(size)}, "
            f"which needs {wanted}"
        )
    return tensor.flatten(1)[:, : channels * size.numel()].reshape(wanted)


def _unfitted(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient of the tensor that `_fitted` read from: zero in what it left out."""
    if grad.shape == like.shape:
        return grad
    whole = grad.new_zeros(like.shape[0], like[0].numel())
    whole[:, : grad[0].numel()] = grad.flatten(1)
    return whole.view(like.shape)


def modulated_deform_conv_forward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    output: Tensor,
    columns: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Write the convolution into `output`."""
    cells = deformable_group * kernel_h * kernel_w
    offset = _fitted(offset, "offset", 2 * cells, output.shape[2:])
    mask = _fitted(mask, "mask", cells, output.shape[2:])
    bias = bias if with_bias else input.new_zeros(weight.shape[0])
    settings = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, True)
    output.copy_(_conv(*widened(input, weight, offset, mask, bias), *settings))


def modulated_deform_conv_backward(
    input: Tensor,
    weight: Tensor,
    bias: Tensor,
    ones: Tensor,
    offset: Tensor,
    mask: Tensor,
    columns: Tensor,
    grad_input: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
    grad_offset: Tensor,
    grad_mask: Tensor,
    grad_output: Tensor,
    kernel_h: int,
    kernel_w: int,
    stride_h: int,
    stride_w: int,
    pad_h: int,
    pad_w: int,
    dilation_h: int,
    dilation_w: int,
    group: int,
    deformable_group: int,
    with_bias: bool,
) -> None:
    """Add to `grad_input`, `grad_weight` and, if there is one, `grad_bias`; write `grad_offset` and `grad_mask`."""
    cells = deformable_group * kernel_h * kernel_w
    used_offset = _fitted(offset, "offset", 2 * cells, grad_output.shape[2:])
    used_mask = _fitted(mask, "mask", cells, grad_output.shape[2:])
    bias = bias if with_bias else input.new_zeros(weight.shape[0])
    settings = (stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, group, deformable_group, True)
    tensors = widened(grad_output, input, weight, used_offset, used_mask, bias)
    d_input, d_weight, d_offset, d_mask, d_bias = _conv_backward(*tensors, *settings)
    grad_input += d_input.to(grad_input.dtype)
    grad_weight += d_weight.to(grad_weight.dtype)
    if with_bias:
        grad_bias += d_bias.to(grad_bias.dtype)
    grad_offset.copy_(_unfitted(d_offset, offset))
    grad_mask.copy_(_unfitted(d_mask, mask))
