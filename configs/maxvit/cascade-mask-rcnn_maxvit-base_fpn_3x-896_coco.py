"""Cascade Mask R-CNN with MaxViT-B (arXiv:2204.01697) on COCO at 896 x 896.

Published: box AP 53.4, mask AP 45.7; 157 M parameters, 856 G multiply-adds at 896 x 896 (the paper, table 4).

Counted here: 171 M parameters, 728 G multiply-adds; pyramid and heads are mmdet's.

See the tiny one's file for what the paper leaves open.
"""

_base_ = "cascade-mask-rcnn_maxvit-tiny_fpn_3x-896_coco.py"
work_dir = "work_dirs/maxvit/cascade-mask-rcnn_maxvit-base"

model = dict(
    backbone=dict(arch="base_tf_224", drop_path_rate=0.3, init_cfg=dict(checkpoint="timm://maxvit_base_tf_224.in1k")),
    neck=dict(in_channels=[192, 384, 768]),
)
optim_wrapper = dict(optimizer=dict(lr=3e-3))
