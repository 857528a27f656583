"""RetinaNet with DaViT-T (arXiv:2204.03645) on COCO, 12 epochs.

Published: box AP 44.0; 38.5 M parameters, 244 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "../_base_/datasets/coco_boxes_multiscale.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/davit/retinanet_davit-tiny_1x"

# The finest map is left out, and its norm with it.
model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.DaViT",
        arch="tiny",
        drop_path_rate=0.1,
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained", checkpoint="timm://davit_tiny.msft_in1k"),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)
