"""What several families share."""

from .activation import Act, StarReLU
from .attention import attention
from .conv_bn import ConvBN
from .depthwise import DepthwiseConv
from .downsample import ConvDownsample, ConvStem
from .initial import init_truncated
from .linear import Linear, linear
from .metaformer_block import MetaFormerBlock
from .mlp import Mlp, StarMlp
from .norm import GroupNorm1
from .patches import PatchMerging, PatchStem
from .position import ConvPosEnc
from .scale import Scale
from .windows import crop, pad_to_multiple, window_partition, window_reverse

__all__ = [
    "Act",
    "ConvBN",
    "ConvDownsample",
    "ConvPosEnc",
    "ConvStem",
    "DepthwiseConv",
    "GroupNorm1",
    "Linear",
    "MetaFormerBlock",
    "Mlp",
    "PatchMerging",
    "PatchStem",
    "Scale",
    "StarMlp",
    "StarReLU",
    "attention",
    "crop",
    "init_truncated",
    "linear",
    "pad_to_multiple",
    "window_partition",
    "window_reverse",
]
