"""The zoo: a file a family, what they share in `layers/`, token mixers in `mixers/`."""

from .base import Backbone
from .biformer import BiFormer
from .davit import DaViT
from .focalnet import FocalNet
from .maxvit import MaxViT
from .metaformer import CAFormer, ConvFormer, IdentityFormer, MetaFormer, PoolFormer, PoolFormerV2, RandFormer
from .mhs_vm import MHSVM, MHSVMEncoder
from .mobilenet_v2 import MobileNetV2
from .names import build_backbone, list_backbones
from .nat import NAT, DiNAT, DiNATs, IsotropicDiNAT, IsotropicNAT, ViTRPB
from .resnet import ResNet
from .shvit import SHViT
from .timm_backbone import TimmBackbone

__all__ = [
    "Backbone",
    "BiFormer",
    "CAFormer",
    "ConvFormer",
    "DaViT",
    "DiNAT",
    "DiNATs",
    "FocalNet",
    "IdentityFormer",
    "IsotropicDiNAT",
    "IsotropicNAT",
    "MHSVM",
    "MHSVMEncoder",
    "MaxViT",
    "MetaFormer",
    "NAT",
    "MobileNetV2",
    "PoolFormer",
    "ResNet",
    "PoolFormerV2",
    "RandFormer",
    "SHViT",
    "TimmBackbone",
    "ViTRPB",
    "build_backbone",
    "list_backbones",
]
