"""Necks that plug into mmdet and mmseg beside the ones that these bring."""

from .shvit_neck import SHViTNeck
from .simple_feature_pyramid import SimpleFeaturePyramid

__all__ = ["SHViTNeck", "SimpleFeaturePyramid"]
