"""Mask R-CNN with FocalNet-T (LRF, arXiv:2203.11926) on COCO, 12 epochs.

Published: box AP 46.1, mask AP 41.5; 48.8 M parameters, 268 G multiply-adds at 1280 x 800 (the authors' README).

Counted here: 49.4 M parameters, 271 G multiply-adds; as the larger ones' figures in the same table imply.
"""

_base_ = "mask-rcnn_focalnet-tiny-srf_fpn_1x_coco.py"
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-tiny-lrf_1x"

model = dict(
    backbone=dict(arch="tiny_lrf", drop_path_rate=0.1, init_cfg=dict(checkpoint="timm://focalnet_tiny_lrf.ms_in1k")),
)
