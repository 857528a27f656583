"""Mask R-CNN with PoolFormer-S12 (arXiv:2111.11418) on COCO, 12 epochs.

Published: box AP 37.3, mask AP 34.6; 31.6 M parameters (the authors' README).

The rate is that of the authors' config, twice the paper's.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/poolformer/mask-rcnn_poolformer-s12"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.PoolFormer",
        arch="s12",
        init_cfg=dict(type="Pretrained", checkpoint="timm://poolformer_s12.sail_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
