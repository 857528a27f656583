"""RetinaNet with SHViT-S4 (arXiv:2401.16456) on COCO, 12 epochs.

Published: box AP 38.8 (the paper).

Strides 16, 32, 64 of the backbone; the neck makes an 8 and a pooled 128.
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/shvit/retinanet_shvit-s4"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.SHViT",
        arch="s4",
        norm_eval=True,
        init_cfg=dict(type="Pretrained", checkpoint="timm://shvit_s4.in1k"),
    ),
    neck=dict(
        _delete_=True,
        type="bestiary.SHViTNeck",
        in_channels=[224, 336, 448],
        out_channels=256,
        num_finer=1,
        num_outs=5,
    ),
)
