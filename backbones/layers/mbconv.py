"""The inverted bottleneck that norms first, on channels-last maps (MaxViT, arXiv:2204.01697)."""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.flop_counter import conv_flop_count, register_flop_formula

from .activation import Act, linear_act
from .conv_bn import norm_as_scale
from .linear import AFTER, Linear, onednn_takes, records
from .squeeze_excite import SqueezeExcite


def conv3x3(x: Tensor, weight: Tensor, bias: Tensor | None, stride: int, act: Act | None = None) -> Tensor:
    """A depthwise 3 x 3 convolution with a row of zeros all round, and an activation after it or none.

    (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), C).
    """
    x = x.permute(0, 3, 1, 2)
    if act is not None and onednn_takes(x, weight) and not records(x, weight):
        x = torch.ops.mkldnn._convolution_pointwise(
            x, weight, bias, [1, 1], [stride, stride], [1, 1], len(weight), *AFTER[act.name]
        )
        return x.permute(0, 2, 3, 1)
    x = F.conv2d(x, weight, bias, stride, padding=1, groups=len(weight)).permute(0, 2, 3, 1)
    return x if act is None else act(x)


def halved(x: Tensor, count_padding: bool = False) -> Tensor:
    """The mean of each 2 x 2 pixels: (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), C).

    Args:
        count_padding: whether an odd side is padded by a row of zeros that count; else the mean is of what is there.
    """
    height, width = x.shape[1:3]
    x = x.permute(0, 3, 1, 2)
    if count_padding and (height % 2 or width % 2):
        x = F.pad(x, (0, width % 2, 0, height % 2))
    return F.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False).permute(0, 2, 3, 1)


def channels_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A batch norm on (B, H, W, C)."""
    return norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MBConv(nn.Module):
    """Norm, 1 x 1, norm, act, depthwise 3 x 3, norm, act, squeeze and excite, 1 x 1, added to a shortcut.

    (B, H, W, C_in) -> (B, ceil(H / stride), ceil(W / stride), C_out). The shortcut of stride 2 is a mean of 2 x 2
    pixels, and then a linear layer where the widths differ.

    Args:
        in_channels, out_channels: widths.
        stride: 1, or 2 in the depthwise convolution; 1 takes equal widths.
        hidden_dim: width within.
        se_dim: width within squeeze and excite.
        act: 'gelu_tanh', 'gelu' or 'silu'.
        bias: whether the last layer and the shortcut's have one.
        same: TensorFlow's padding, by one row at the end of even sides where the stride is 2; else by one all round.
        count_padding: of the shortcut's mean, see `halved`.
        eps, momentum: of the batch norms.
        drop_path: rate of stochastic depth.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        stride: int,
        hidden_dim: int,
        se_dim: int,
        act: str = "gelu_tanh",
        bias: bool = True,
        same: bool = True,
        count_padding: bool = False,
        eps: float = 1e-3,
        momentum: float = 0.01,
        drop_path: float = 0.0,
    ) -> None:
        super().__init__()
        self.stride, self.act, self.same, self.count_padding = stride, Act(act), same, count_padding
        self.pre_norm = nn.BatchNorm2d(in_channels, eps, momentum)
        self.expand = Linear(in_channels, hidden_dim, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden_dim, eps, momentum)
        self.depthwise = nn.Conv2d(hidden_dim, hidden_dim, 3, stride, padding=1, groups=hidden_dim, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden_dim, eps, momentum)
        self.se = SqueezeExcite(hidden_dim, se_dim, F.silu)
        self.project = Linear(hidden_dim, out_channels, bias=bias)
        narrow = in_channels == out_channels
        self.shortcut = nn.Identity() if narrow else Linear(in_channels, out_channels, bias=bias)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(halved(x, self.count_padding)) if self.stride == 2 else x
        # TensorFlow pads an even side by one row at its end, and PyTorch by one at each end. Seen from the other end
        # both begin with the row of zeros: the narrow map is turned round rather than the wide one padded.
        turned = [axis for axis in (1, 2) if self.same and self.stride == 2 and x.shape[axis] % 2 == 0]
        weight = self.depthwise.weight
        if turned:
            x, weight = x.flip(turned), weight.flip([axis + 1 for axis in turned])
        x = self._by_batch_norms(x, weight) if self.norm1.training else self._by_fixed_norms(x, weight)
        gate = self.se(x)[:, None, None]
        x = self.project(x * gate if x.requires_grad or gate.requires_grad else x.mul_(gate))
        return self.drop_path(x.flip(turned) if turned else x) + shortcut

    def _by_batch_norms(self, x: Tensor, weight: Tensor) -> Tensor:
        x = self.act(channels_norm(self.norm1, self.expand(channels_norm(self.pre_norm, x))))
        return self.act(channels_norm(self.norm2, conv3x3(x, weight, None, self.stride)))

    def _by_fixed_norms(self, x: Tensor, weight: Tensor) -> Tensor:
        # The wide maps are what takes time here. A fixed norm is a factor and a shift of each channel, which go into
        # the small weights beside it, and a pass over each map is saved.
        scale, shift = norm_as_scale(self.pre_norm)
        outer_scale, outer_shift = norm_as_scale(self.norm1)
        expand = outer_scale[:, None] * self.expand.weight
        x = linear_act(x, expand * scale, expand @ shift + outer_shift, self.act)
        scale, shift = norm_as_scale(self.norm2)
        return conv3x3(x, scale[:, None, None, None] * weight, shift, self.stride, self.act)


if hasattr(torch.ops.mkldnn, "_convolution_pointwise"):

    @register_flop_formula(torch.ops.mkldnn._convolution_pointwise)
    def _operations(x, weight, *_, out_shape=None, **__) -> int:
        return conv_flop_count(x, weight, out_shape)
