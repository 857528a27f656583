"""CAFormer-B36 (arXiv:2210.13452) on ImageNet-1k, brought from 224 to 384 in 30 epochs.

Published: top-1 86.4; 98.8 M parameters, 72.2 G multiply-adds (the authors' README).
"""

_base_ = "caformer-s18_32xb32_in1k-384.py"
work_dir = "work_dirs/metaformer/caformer-b36_in1k-384"

model = dict(
    backbone=dict(arch="b36", drop_path_rate=0.8, init_cfg=dict(checkpoint="timm://caformer_b36.sail_in1k")),
    head=dict(in_channels=768, dropout=0.5),
)
