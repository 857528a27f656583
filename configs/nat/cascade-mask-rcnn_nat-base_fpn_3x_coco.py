"""Cascade Mask R-CNN with NAT-Base (arXiv:2204.07143) on COCO, 36 epochs.

Published: box AP 52.3, mask AP 45.1; 147 M parameters, 931 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_nat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/nat/cascade-mask-rcnn_nat-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/nat_base_1k.pth")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
