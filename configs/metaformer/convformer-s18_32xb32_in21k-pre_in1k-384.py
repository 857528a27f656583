"""ConvFormer-S18 (arXiv:2210.13452) on ImageNet-1k at 384, from ImageNet-21k's weights, 30 epochs.

Published: top-1 85.0; 26.8 M parameters, 11.6 G multiply-adds (the authors' README).
"""

_base_ = "convformer-s18_32xb32_in1k-384.py"
work_dir = "work_dirs/metaformer/convformer-s18_in21k-pre_in1k-384"

model = dict(backbone=dict(init_cfg=dict(checkpoint="timm://convformer_s18.sail_in22k")))
