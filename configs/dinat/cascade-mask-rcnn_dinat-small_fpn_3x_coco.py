"""Cascade Mask R-CNN with DiNAT-Small (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 52.9, mask AP 45.8; 108 M parameters, 809 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_dinat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/cascade-mask-rcnn_dinat-small"

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/dinat_small_in1k_224.pth")),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
