"""Mask R-CNN with FocalNet-B (LRF, arXiv:2203.11926) on COCO, 12 epochs.

Published: box AP 49.0, mask AP 43.5; 111.4 M parameters, 507 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_focalnet-tiny-srf_fpn_1x_coco.py"
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-base-lrf_1x"

model = dict(
    backbone=dict(arch="base_lrf", drop_path_rate=0.3, init_cfg=dict(checkpoint="timm://focalnet_base_lrf.ms_in1k")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
