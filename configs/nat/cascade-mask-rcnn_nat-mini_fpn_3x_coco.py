"""Cascade Mask R-CNN with NAT-Mini (arXiv:2204.07143) on COCO, 36 epochs.

Published: box AP 50.3, mask AP 43.6; 77 M parameters, 704 G multiply-adds at 1280 x 800 (the authors' README).

The weights are the authors' file of ImageNet-1k, to be put there.
"""

_base_ = [
    "../_base_/models/cascade-mask-rcnn_4conv1fc.py",
    "../_base_/datasets/coco_multiscale.py",
    "../_base_/schedules/coco_3x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/nat/cascade-mask-rcnn_nat-mini"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.NAT",
        arch="mini",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_mini_1k.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(rpb=dict(decay_mult=0.0))))
