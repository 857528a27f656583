"""Mask R-CNN with FocalNet-S (LRF, arXiv:2203.11926) on COCO, 12 epochs.

Published: box AP 48.3, mask AP 43.1; 72.3 M parameters, 365 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_focalnet-tiny-srf_fpn_1x_coco.py"
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-small-lrf_1x"

model = dict(
    backbone=dict(arch="small_lrf", drop_path_rate=0.2, init_cfg=dict(checkpoint="timm://focalnet_small_lrf.ms_in1k")),
)
