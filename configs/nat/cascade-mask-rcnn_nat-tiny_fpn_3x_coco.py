"""Cascade Mask R-CNN with NAT-Tiny (arXiv:2204.07143) on COCO, 36 epochs.

Published: box AP 51.4, mask AP 44.5; 85 M parameters, 737 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_nat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/nat/cascade-mask-rcnn_nat-tiny"

model = dict(
    backbone=dict(arch="tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/nat_tiny_1k.pth")),
)
