"""A convolution with its batch norm, and the fold of the two into one convolution for inference."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def norm_as_scale(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation mode as a factor and a shift of each channel, (C,) and (C,)."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


class ConvBN(nn.Module):
    """A convolution without bias, then a batch norm: (B, C_in, H, W) -> (B, C_out, H', W').

    Args:
        bn_weight_init: initial scale of the norm; 0 lets a residual branch begin as nothing.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 1,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        bn_weight_init: float = 1.0,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)
        nn.init.constant_(self.bn.weight, bn_weight_init)

    def forward(self, x: Tensor) -> Tensor:
        conv, bn = self.conv, self.bn
        if bn.training or not self.folds(x):
            return bn(conv(x))
        scale, shift = norm_as_scale(bn)
        return F.conv2d(
            x, conv.weight * scale[:, None, None, None], shift, conv.stride, conv.padding, groups=conv.groups
        )

    def folds(self, x: Tensor) -> bool:
        """Whether a fixed norm costs less on the weights than on the map that the convolution gives.

        The weights of a wide kernel here (a stem's, a depthwise one's) are few beside the map's values; those of 1 x 1
        are as many.
        """
        return self.conv.kernel_size != (1, 1)

    @torch.no_grad()
    def fuse(self) -> nn.Conv2d:
        """One convolution with a bias that gives what this layer gives in evaluation mode.

        Raises:
            ValueError: in training mode, in which the norm goes by the batch and no convolution can equal it.
        """
        conv, bn = self.conv, self.bn
        if bn.training:
            raise ValueError(
                "ConvBN: fuse() needs evaluation mode, the norm's running statistics are what it folds; call .eval()"
            )
        # In float64, so that folding adds no rounding but the last one.
        scale, shift = norm_as_scale(copy.deepcopy(bn).double())
        fused = nn.Conv2d(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            groups=conv.groups,
            device=conv.weight.device,
            dtype=conv.weight.dtype,
        )
        fused.weight.copy_(conv.weight.double() * scale[:, None, None, None])
        fused.bias.copy_(shift)
        return fused.to(memory_format=torch.channels_last).eval()


def fused(module: nn.Module) -> nn.Module:
    """A copy in which every part that knows how to `fuse` is replaced by what it fuses into; `module` stays as it is.

    Raises:
        ValueError: the module is in training mode.
    """
    if module.training:
        raise ValueError(
            f"{type(module).__name__}: fuse() is for inference and folds running statistics; call .eval() first"
        )
    return _fuse_parts(copy.deepcopy(module))


def _fuse_parts(module: nn.Module) -> nn.Module:
    for name, part in module.named_children():
        setattr(module, name, part.fuse() if hasattr(part, "fuse") else _fuse_parts(part))
    return module
