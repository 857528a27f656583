"""CAFormer-S36 (arXiv:2210.13452) on ImageNet-1k at 384, from ImageNet-21k's weights, 30 epochs.

Published: top-1 86.9; 39.3 M parameters, 26.0 G multiply-adds (the authors' README).
"""

_base_ = "caformer-s36_32xb32_in1k-384.py"
work_dir = "work_dirs/metaformer/caformer-s36_in21k-pre_in1k-384"

model = dict(backbone=dict(init_cfg=dict(checkpoint="timm://caformer_s36.sail_in22k")))
