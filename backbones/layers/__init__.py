"""What several families share."""

from .downsample import ConvDownsample, ConvStem
from .norm import GroupNorm1
from .scale import Scale

__all__ = ["ConvDownsample", "ConvStem", "GroupNorm1", "Scale"]
