"""ATSS with FocalNet-T (LRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 49.6; 37.2 M parameters, 220 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "atss_focalnet-tiny-srf_fpn_3x_coco.py"
work_dir = "work_dirs/focalnet/atss_focalnet-tiny-lrf"

model = dict(backbone=dict(arch="tiny_lrf", init_cfg=dict(checkpoint="timm://focalnet_tiny_lrf.ms_in1k")))
