"""Necks that plug into mmdet and mmseg beside the ones that these bring."""

from .shvit_neck import SHViTNeck

__all__ = ["SHViTNeck"]
