"""Mask R-CNN with FocalNet-T (SRF, arXiv:2203.11926) on COCO, 12 epochs.

Published: box AP 45.9, mask AP 41.3; 48.6 M parameters, 267 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/coco_multiscale.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-tiny-srf_1x"

# Kernels of 9 and 11 where the classifier has 3 and 5: its weights are put into their middles.
model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.FocalNet",
        arch="tiny_srf",
        focal_windows=9,
        drop_path_rate=0.1,
        init_cfg=dict(type="Pretrained", checkpoint="timm://focalnet_tiny_srf.ms_in1k"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=12, milestones=[9, 11], gamma=0.1),
]
