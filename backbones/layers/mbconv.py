"""The inverted bottleneck that norms first, on channels-last maps (MaxViT, arXiv:2204.01697)."""

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

ACTS = ("gelu", "gelu_tanh", "silu")


def is_kept(x: Tensor) -> bool:
    """Whether autograd may need a tensor, so that it must not be overwritten."""
    return x.requires_grad


class Act(nn.Module):
    """An activation function by name; it overwrites its input where no gradient is asked for.

    Memory for a second wide map costs more time than the function itself. For inputs that nothing else uses.

    Args:
        name: 'gelu', 'gelu_tanh' or 'silu'.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        if name not in ACTS:
            raise ValueError(f"Act: no activation {name!r}; there are {', '.join(ACTS)}")
        self.name = name

    def extra_repr(self) -> str:
        return self.name

    def forward(self, x: Tensor) -> Tensor:
        if self.name == "silu":
            return F.silu(x, inplace=not is_kept(x))
        approximate = "tanh" if self.name == "gelu_tanh" else "none"
        if is_kept(x):
            return F.gelu(x, approximate=approximate)
        return torch.ops.aten.gelu_(x, approximate=approximate)


def same_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: int = 1, groups: int = 1, same: bool = True
) -> Tensor:
    """A 3 x 3 convolution of stride 1 or 2: (B, H, W, C) -> (B, ceil(H / stride), ceil(W / stride), D).

    Args:
        same: pad as TensorFlow's 'same' does, by which stride 2 on an even side means one row at its end and none
            before. False: one at either end in every case.
    """
    x = x.permute(0, 3, 1, 2)
    # A row of zeros before the kernel stands for the padding that an even side has not got there, and no padded copy
    # of the map is made.
    before = [int(same and stride == 2 and side % 2 == 0) for side in x.shape[2:]]
    if any(before):
        weight = F.pad(weight, (before[1], 0, before[0], 0))
    return F.conv2d(x, weight, bias, stride, padding=1, groups=groups).permute(0, 2, 3, 1)


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


def norm_as_scale(norm: nn.Module) -> tuple[Tensor, Tensor]:
    """A batch norm in evaluation mode as a factor and a shift of each channel, (C,) and (C,)."""
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    return scale, norm.bias - norm.running_mean * scale


def channels_norm(norm: nn.Module, x: Tensor) -> Tensor:
    """A batch norm on (B, H, W, C)."""
    return norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class SqueezeExcite(nn.Module):
    """A factor in 0..1 for each picture and channel (arXiv:1709.01507): (B, H, W, C) -> (B, C).

    Args:
        dim: channels.
        hidden_dim: channels between the two layers, SiLU after the first.
    """

    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(dim, hidden_dim), nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.silu(self.fc1(x.mean(dim=(1, 2))))).sigmoid()


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
        same: TensorFlow's padding, see `same_conv`.
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
        self.expand = nn.Linear(in_channels, hidden_dim, bias=False)
        self.norm1 = nn.BatchNorm2d(hidden_dim, eps, momentum)
        self.depthwise = nn.Conv2d(hidden_dim, hidden_dim, 3, stride, padding=1, groups=hidden_dim, bias=False)
        self.norm2 = nn.BatchNorm2d(hidden_dim, eps, momentum)
        self.se = SqueezeExcite(hidden_dim, se_dim)
        self.project = nn.Linear(hidden_dim, out_channels, bias=bias)
        narrow = in_channels == out_channels
        self.shortcut = nn.Identity() if narrow else nn.Linear(in_channels, out_channels, bias=bias)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.shortcut(halved(x, self.count_padding)) if self.stride == 2 else x
        x = self._hidden(x) if self.norm1.training else self._hidden_by_folded_norms(x)
        gate = self.se(x)
        x = self.project(x * gate[:, None, None] if is_kept(x) else x.mul_(gate[:, None, None]))
        return self.drop_path(x) + shortcut

    def _hidden(self, x: Tensor) -> Tensor:
        x = self.act(channels_norm(self.norm1, self.expand(channels_norm(self.pre_norm, x))))
        return self.act(channels_norm(self.norm2, self._depthwise(x, self.depthwise.weight, None)))

    def _hidden_by_folded_norms(self, x: Tensor) -> Tensor:
        # The wide maps are what takes time here, and a pass over each is saved: a fixed norm is a factor and a shift,
        # which go into the small weights beside it.
        scale, shift = norm_as_scale(self.pre_norm)
        outer_scale, outer_shift = norm_as_scale(self.norm1)
        weight = outer_scale[:, None] * self.expand.weight
        x = self.act(F.linear(x, weight * scale, weight @ shift + outer_shift))
        scale, shift = norm_as_scale(self.norm2)
        return self.act(self._depthwise(x, scale[:, None, None, None] * self.depthwise.weight, shift))

    def _depthwise(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return same_conv(x, weight, bias, self.stride, len(weight), self.same)
