"""Mask R-CNN with DiNAT_s-Tiny (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 46.6, mask AP 42.1 (the authors' README).

The weights are the authors' file of ImageNet-1k, to be put there.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/coco_multiscale.py",
    "../_base_/schedules/coco_3x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/dinat/mask-rcnn_dinat-s-tiny"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.DiNATs",
        arch="tiny",
        dilations="detection",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_s_tiny_in1k_224.pth"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(rpb=dict(decay_mult=0.0))))
