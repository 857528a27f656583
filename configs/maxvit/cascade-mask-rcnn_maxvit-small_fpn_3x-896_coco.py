"""Cascade Mask R-CNN with MaxViT-S (arXiv:2204.01697) on COCO at 896 x 896.

Published: box AP 53.1, mask AP 45.4; 107 M parameters, 595 G multiply-adds at 896 x 896 (the paper, table 4).

Counted here: 120 M parameters, 471 G multiply-adds; pyramid and heads are mmdet's.

See the tiny one's file for what the paper leaves open.
"""

_base_ = "cascade-mask-rcnn_maxvit-tiny_fpn_3x-896_coco.py"
work_dir = "work_dirs/maxvit/cascade-mask-rcnn_maxvit-small"

model = dict(
    backbone=dict(arch="small_tf_224", drop_path_rate=0.3, init_cfg=dict(checkpoint="timm://maxvit_small_tf_224.in1k")),
    neck=dict(in_channels=[192, 384, 768]),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
