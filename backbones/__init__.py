"""The zoo: a file a family, what they share in `layers/`, token mixers in `mixers/`."""

from .base import Backbone
from .davit import DaViT
from .metaformer import PoolFormer
from .names import build_backbone, list_backbones
from .shvit import SHViT
from .timm_backbone import TimmBackbone

__all__ = ["Backbone", "DaViT", "PoolFormer", "SHViT", "TimmBackbone", "build_backbone", "list_backbones"]
