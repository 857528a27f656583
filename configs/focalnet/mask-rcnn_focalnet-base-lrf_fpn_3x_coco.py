"""Mask R-CNN with FocalNet-B (LRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 49.8, mask AP 44.1; 111.4 M parameters, 507 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_focalnet-tiny-srf_fpn_3x_coco.py"
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-base-lrf_3x"

model = dict(
    backbone=dict(arch="base_lrf", drop_path_rate=0.5, init_cfg=dict(checkpoint="timm://focalnet_base_lrf.ms_in1k")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
