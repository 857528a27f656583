"""Scores: of classifiers, of segmentors, of detectors. Importing it fills the registry."""

from .classification import CalibrationError, ClassAccuracy, RealAccuracy, TopkAccuracy
from .coco import CocoMetric, LvisMetric
from .segmentation import StreamingIoU

__all__ = [
    "CalibrationError",
    "ClassAccuracy",
    "CocoMetric",
    "LvisMetric",
    "RealAccuracy",
    "StreamingIoU",
    "TopkAccuracy",
]
