"""ConvFormer-S36 (arXiv:2210.13452) on ImageNet-1k at 384, from ImageNet-21k's weights, 30 epochs.

Published: top-1 86.4; 40.0 M parameters, 22.4 G multiply-adds (the authors' README).
"""

_base_ = "convformer-s36_32xb32_in1k-384.py"
work_dir = "work_dirs/metaformer/convformer-s36_in21k-pre_in1k-384"

model = dict(backbone=dict(init_cfg=dict(checkpoint="timm://convformer_s36.sail_in22k")))
