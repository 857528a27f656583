"""RandFormer-S12 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 76.6; 12 M parameters, 1.9 G multiply-adds (the authors' README).
"""

_base_ = "poolformerv2-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/randformer-s12_in1k"

model = dict(backbone=dict(type="RandFormer"))
