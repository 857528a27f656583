"""RetinaNet with PoolFormer-S12 (arXiv:2111.11418) on COCO, 12 epochs.

Published: box AP 36.2; 21.7 M parameters (the authors' README).
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/poolformer/retinanet_poolformer-s12"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.PoolFormer",
        arch="s12",
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained", checkpoint="timm://poolformer_s12.sail_in1k"),
    ),
    neck=dict(in_channels=[128, 320, 512], start_level=0),
)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
