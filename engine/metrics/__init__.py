"""Scores: of classifiers, of segmentors, of detectors. Importing it fills the registry."""

from .classification import CalibrationError, ClassAccuracy, RealAccuracy, TopkAccuracy
from .coco import CocoMetric, LvisMetric
from .multi_label import MultiLabelScores
from .segmentation import StreamingIoU

__all__ = [
    "CalibrationError",
    "ClassAccuracy",
    "CocoMetric",
    "LvisMetric",
    "MultiLabelScores",
    "RealAccuracy",
    "StreamingIoU",
    "TopkAccuracy",
]
