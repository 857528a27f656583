"""Mask R-CNN with DaViT-B (arXiv:2204.03645) on COCO, 12 epochs.

Published: box AP 48.2, mask AP 43.3; 107.3 M parameters, 491 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_davit-tiny_fpn_1x_coco.py"
work_dir = "work_dirs/davit/mask-rcnn_davit-base_1x"

model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="timm://davit_base.msft_in1k")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
