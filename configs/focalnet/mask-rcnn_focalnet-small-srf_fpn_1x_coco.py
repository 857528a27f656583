"""Mask R-CNN with FocalNet-S (SRF, arXiv:2203.11926) on COCO, 12 epochs.

Published: box AP 48.0, mask AP 42.7; 70.8 M parameters, 356 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_focalnet-tiny-srf_fpn_1x_coco.py"
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-small-srf_1x"

model = dict(
    backbone=dict(arch="small_srf", drop_path_rate=0.2, init_cfg=dict(checkpoint="timm://focalnet_small_srf.ms_in1k")),
)
