"""ConvFormer-M36 (arXiv:2210.13452) on ImageNet-1k, brought from 224 to 384 in 30 epochs.

Published: top-1 85.6; 57.1 M parameters, 37.7 G multiply-adds (the authors' README).
"""

_base_ = "convformer-s18_32xb32_in1k-384.py"
work_dir = "work_dirs/metaformer/convformer-m36_in1k-384"

model = dict(
    backbone=dict(arch="m36", drop_path_rate=0.8, init_cfg=dict(checkpoint="timm://convformer_m36.sail_in1k")),
    head=dict(in_channels=576, dropout=0.5),
)
