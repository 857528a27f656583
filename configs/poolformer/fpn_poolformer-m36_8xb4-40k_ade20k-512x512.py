"""Semantic FPN with PoolFormer-M36 (arXiv:2111.11418) on ADE20K, 40,000 iterations.

Published: mIoU 42.4; 59.8 M parameters (the authors' README).
"""

_base_ = "fpn_poolformer-s12_8xb4-40k_ade20k-512x512.py"
work_dir = "work_dirs/poolformer/fpn_poolformer-m36"

model = dict(
    backbone=dict(arch="m36", init_cfg=dict(checkpoint="timm://poolformer_m36.sail_in1k")),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
