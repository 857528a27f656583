"""Cascade Mask R-CNN with DiNAT_s-Base (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 52.6, mask AP 45.3 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_dinat-s-tiny_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/cascade-mask-rcnn_dinat-s-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/dinat_s_base_in1k_224.pth")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(optimizer=dict(lr=7.5e-5))
