"""What several families share."""

from .activation import StarMlp, StarReLU
from .conv_bn import ConvBN
from .depthwise import DepthwiseConv
from .downsample import ConvDownsample, ConvStem
from .gelu import gelu
from .initial import init_truncated
from .linear import Linear, Mlp, linear
from .norm import GroupNorm1
from .position import ConvPosEnc
from .scale import Scale
from .windows import crop, pad_to_multiple, window_partition, window_reverse

__all__ = [
    "ConvBN",
    "ConvDownsample",
    "ConvPosEnc",
    "ConvStem",
    "DepthwiseConv",
    "GroupNorm1",
    "Linear",
    "Mlp",
    "Scale",
    "StarMlp",
    "StarReLU",
    "crop",
    "gelu",
    "init_truncated",
    "linear",
    "pad_to_multiple",
    "window_partition",
    "window_reverse",
]
