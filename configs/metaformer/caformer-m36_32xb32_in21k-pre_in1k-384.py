"""CAFormer-M36 (arXiv:2210.13452) on ImageNet-1k at 384, from ImageNet-21k's weights, 30 epochs.

Published: top-1 87.5; 56.2 M parameters, 42.0 G multiply-adds (the authors' README).
"""

_base_ = "caformer-m36_32xb32_in1k-384.py"
work_dir = "work_dirs/metaformer/caformer-m36_in21k-pre_in1k-384"

model = dict(backbone=dict(init_cfg=dict(checkpoint="timm://caformer_m36.sail_in22k")))
