"""CAFormer-M36 (arXiv:2210.13452) on ImageNet-1k, brought from 224 to 384 in 30 epochs.

Published: top-1 86.2; 56.2 M parameters, 42.0 G multiply-adds (the authors' README).
"""

_base_ = "caformer-s18_32xb32_in1k-384.py"
work_dir = "work_dirs/metaformer/caformer-m36_in1k-384"

model = dict(
    backbone=dict(arch="m36", drop_path_rate=0.7, init_cfg=dict(checkpoint="timm://caformer_m36.sail_in1k")),
    head=dict(in_channels=576, dropout=0.4),
)
