"""Mask R-CNN with FocalNet-T (SRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 47.6, mask AP 42.6; 48.6 M parameters, 267 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_focalnet-tiny-srf_fpn_1x_coco.py"
work_dir = "work_dirs/focalnet/mask-rcnn_focalnet-tiny-srf_3x"

model = dict(backbone=dict(drop_path_rate=0.3))
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1),
]
