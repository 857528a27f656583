"""Classification: heads and the model that holds them. Heads of mmdet and mmseg plug into the same registry."""

from .base import ClassificationHead
from .class_attention_head import ClassAttentionHead
from .classifier import ImageClassifier, make_classifier
from .conv_head import ConvHead
from .dice_loss import BinaryDiceLoss, ClassDiceLoss
from .linear_head import LinearHead
from .mlp_head import MlpHead, NormMlpHead

__all__ = [
    "BinaryDiceLoss",
    "ClassAttentionHead",
    "ClassDiceLoss",
    "ClassificationHead",
    "ConvHead",
    "ImageClassifier",
    "LinearHead",
    "MlpHead",
    "NormMlpHead",
    "make_classifier",
]
