"""What several families share."""

from .conv_bn import ConvBN
from .downsample import ConvDownsample, ConvStem
from .norm import GroupNorm1
from .position import ConvPosEnc
from .scale import Scale
from .windows import crop, pad_to_multiple, window_partition, window_reverse

__all__ = [
    "ConvBN",
    "ConvDownsample",
    "ConvPosEnc",
    "ConvStem",
    "GroupNorm1",
    "Scale",
    "crop",
    "pad_to_multiple",
    "window_partition",
    "window_reverse",
]
