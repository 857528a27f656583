"""Semantic FPN with BiFormer-B (arXiv:2303.08810) on ADE20K, 80,000 iterations.

Published: mIoU 49.9 (the authors' README).
"""

_base_ = "fpn_biformer-small_8xb4-80k_ade20k-512x512.py"
work_dir = "work_dirs/biformer/fpn_biformer-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/biformer_base_best.pth")),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
