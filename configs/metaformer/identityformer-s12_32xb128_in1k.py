"""IdentityFormer-S12 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 74.6; 12 M parameters (the authors' README).
"""

_base_ = "poolformerv2-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/identityformer-s12_in1k"

model = dict(backbone=dict(type="IdentityFormer"))
