"""CAFormer-S36 (arXiv:2210.13452) on ImageNet-1k, brought from 224 to 384 in 30 epochs.

Published: top-1 85.7; 39.3 M parameters, 26.0 G multiply-adds (the authors' README).
"""

_base_ = "caformer-s18_32xb32_in1k-384.py"
work_dir = "work_dirs/metaformer/caformer-s36_in1k-384"

model = dict(
    backbone=dict(arch="s36", drop_path_rate=0.5, init_cfg=dict(checkpoint="timm://caformer_s36.sail_in1k")),
    head=dict(dropout=0.4),
)
