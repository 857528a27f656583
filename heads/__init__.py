"""Classification: heads and the model that holds them. Heads of mmdet and mmseg plug into the same registry."""

from .classifier import ImageClassifier, build_classifier
from .linear_head import LinearHead

__all__ = ["ImageClassifier", "LinearHead", "build_classifier"]
