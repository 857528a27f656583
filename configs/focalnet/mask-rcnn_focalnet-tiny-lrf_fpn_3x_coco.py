"""Mask R-CNN with FocalNet-T (LRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 48.0, mask AP 42.9; 48.8 M parameters, 268 G multiply-adds at 1280 x 800 (the authors' README).

Counted here: 49.4 M parameters, 271 G multiply-adds; as the larger ones' figures in the same table imply.
"""

_base_ = "mask-rcnn_focalnet-tiny-srf_fpn_3x_coco.py"
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-tiny-lrf_3x"

model = dict(
    backbone=dict(arch="tiny_lrf", drop_path_rate=0.3, init_cfg=dict(checkpoint="timm://focalnet_tiny_lrf.ms_in1k")),
)
