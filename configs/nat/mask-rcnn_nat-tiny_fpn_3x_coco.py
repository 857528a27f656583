"""Mask R-CNN with NAT-Tiny (arXiv:2204.07143) on COCO, 36 epochs.

Published: box AP 47.7, mask AP 42.6; 48 M parameters, 258 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_nat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/nat/mask-rcnn_nat-tiny"

model = dict(
    backbone=dict(arch="tiny", drop_path_rate=0.2, init_cfg=dict(checkpoint="checkpoints/nat_tiny_1k.pth")),
)
