"""Cascade Mask R-CNN with DiNAT-Mini (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 51.2, mask AP 44.4; 77 M parameters, 704 G multiply-adds at 1280 x 800 (the authors' README).

The weights are the authors' file of ImageNet-1k, to be put there.
"""

_base_ = [
    "../_base_/models/cascade-mask-rcnn_4conv1fc.py",
    "../_base_/datasets/coco_multiscale.py",
    "../_base_/schedules/coco_3x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/dinat/cascade-mask-rcnn_dinat-mini"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.DiNAT",
        arch="mini",
        dilations="detection",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_mini_in1k_224.pth"),
    ),
    neck=dict(in_channels=[64, 128, 256, 512]),
)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(rpb=dict(decay_mult=0.0))))
