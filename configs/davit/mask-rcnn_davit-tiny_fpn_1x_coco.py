"""Mask R-CNN with DaViT-T (arXiv:2204.03645) on COCO, 12 epochs.

Published: box AP 45.0, mask AP 41.1; 47.8 M parameters, 263 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/coco_multiscale.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/davit/mask-rcnn_davit-tiny_1x"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.DaViT",
        arch="tiny",
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="timm://davit_tiny.msft_in1k"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
