"""ELA: Efficient Local Attention for Deep Convolutional Neural Networks (Xu and Wan, arXiv:2403.01123).

There is no official code. The module and its four sizes are as several independent re-implementations of the paper's
listing agree; one convolution and one norm serve both directions, as in the listing.
"""

from functools import cache
from typing import Any

from mmengine.logging import print_log
from torch import Tensor, nn

from ...registry import MODELS
from .eca import scale_and_add

ELA_SIZES: dict[str, dict[str, Any]] = {  # group_width: channels to a group of the convolution
    "ela_t": dict(kernel_size=5, group_width=1, norm_groups=32),
    "ela_b": dict(kernel_size=7, group_width=1, norm_groups=16),
    "ela_s": dict(kernel_size=5, group_width=8, norm_groups=16),
    "ela_l": dict(kernel_size=7, group_width=8, norm_groups=16),
}


def largest_divisor(number: int, most: int) -> int:
    """The largest divisor of `number` that is not above `most` (1 at least)."""
    return next(divisor for divisor in range(max(min(most, number), 1), 0, -1) if number % divisor == 0)


@MODELS.register_module()
class ELA(nn.Module):
    """Scale each pixel by a gate of its row and one of its column, a channel at a time.

    Means over the rows (B, C, H) and over the columns (B, C, W), each through a 1-D convolution along it, group norm
    and sigmoid. (B, C, H, W) -> the same shape; H and W may differ.

    Args:
        in_channels: C.
        kernel_size: of the convolution, odd.
        group_width: channels to a group of the convolution; it has C // group_width groups.
        norm_groups: groups of the norm.

    Where C cannot be divided into so many groups, of the convolution or of the norm, the largest number below that
    divides it is taken; the module's repr and the log say so.

    Raises:
        ValueError: `kernel_size` is even.
    """

    _abbr_ = "ela"  # as a plug-in of OpenMMLab's ResNets it is found under this name

    def __init__(self, in_channels: int, kernel_size: int = 7, group_width: int = 1, norm_groups: int = 16) -> None:
        super().__init__()
        if kernel_size < 1 or kernel_size % 2 == 0:
            raise ValueError(f"ELA: kernel_size {kernel_size} must be odd and positive")
        asked = dict(conv=max(in_channels // group_width, 1), norm=norm_groups)
        taken = {part: largest_divisor(in_channels, groups) for part, groups in asked.items()}
        self.departures = [
            f"{taken[part]} {part} groups of {asked[part]} asked" for part in asked if taken[part] != asked[part]
        ]
        for departure in self.departures:
            _say(f"ELA: {in_channels} channels take {departure}")
        self.conv = nn.Conv1d(
            in_channels, in_channels, kernel_size, padding=kernel_size // 2, groups=taken["conv"], bias=False
        )
        self.norm = nn.GroupNorm(taken["norm"], in_channels)

    def gate(self, means: Tensor) -> Tensor:
        """Means along one direction (B, C, L) -> gates of the same shape."""
        return self.norm(self.conv(means)).sigmoid()

    def forward(self, x: Tensor, add: Tensor | None = None) -> Tensor:
        """`x` scaled, plus `add` (of the same shape) if there is one."""
        rows, columns = self.gate(x.mean(3)), self.gate(x.mean(2))
        gate = (rows[:, :, :, None] * columns[:, :, None, :]).to(x.dtype)
        return scale_and_add(x, gate, add)

    def extra_repr(self) -> str:
        return ", ".join(self.departures)


@cache
def _say(message: str) -> None:
    print_log(message, "current")  # once a process, however many layers it holds for
