"""Cascade Mask R-CNN with DiNAT-Base (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 53.4, mask AP 46.2; 147 M parameters, 931 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_dinat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/cascade-mask-rcnn_dinat-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/dinat_base_in1k_224.pth")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(optimizer=dict(lr=7.5e-5))
