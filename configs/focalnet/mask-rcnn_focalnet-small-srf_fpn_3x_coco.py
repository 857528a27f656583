"""Mask R-CNN with FocalNet-S (SRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 48.9, mask AP 43.6; 70.8 M parameters, 356 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_focalnet-tiny-srf_fpn_3x_coco.py"
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-small-srf_3x"

model = dict(
    backbone=dict(arch="small_srf", drop_path_rate=0.5, init_cfg=dict(checkpoint="timm://focalnet_small_srf.ms_in1k")),
)
