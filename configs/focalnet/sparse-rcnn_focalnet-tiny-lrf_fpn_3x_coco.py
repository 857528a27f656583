"""Sparse R-CNN with FocalNet-T (LRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 49.9; 111.2 M parameters, 178 G multiply-adds at 1280 x 800 (the authors' README).

Counted here: 181 G multiply-adds; the authors' counter left out the products of dynamic convolutions.
"""

_base_ = "sparse-rcnn_focalnet-tiny-srf_fpn_3x_coco.py"
work_dir = "work_dirs/focalnet/sparse-rcnn_focalnet-tiny-lrf"

model = dict(backbone=dict(arch="tiny_lrf", init_cfg=dict(checkpoint="timm://focalnet_tiny_lrf.ms_in1k")))
