"""Mask R-CNN with DaViT-B (arXiv:2204.03645) on COCO, 36 epochs.

Published: box AP 49.9, mask AP 44.6; 107.3 M parameters, 491 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_davit-tiny_fpn_3x_coco.py"
work_dir = "work_dirs/davit/mask-rcnn_davit-base_3x"

model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="timm://davit_base.msft_in1k")),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
