"""Cascade Mask R-CNN with NAT-Small (arXiv:2204.07143) on COCO, 36 epochs.

Published: box AP 52.0, mask AP 44.9; 108 M parameters, 809 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_nat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/nat/cascade-mask-rcnn_nat-small"

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/nat_small_1k.pth")),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
