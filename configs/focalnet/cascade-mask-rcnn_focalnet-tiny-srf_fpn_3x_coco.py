"""Cascade Mask R-CNN with FocalNet-T (SRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 51.5; 86.4 M parameters, 746 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = [
    "../_base_/models/cascade-mask-rcnn_4conv1fc.py",
    "../_base_/datasets/coco_multiscale.py",
    "../_base_/schedules/coco_3x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/focalnet/cascade-mask-rcnn_focalnet-tiny-srf"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.FocalNet",
        arch="tiny_srf",
        focal_windows=[11, 9, 9, 7],
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm://focalnet_tiny_srf.ms_in1k"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
