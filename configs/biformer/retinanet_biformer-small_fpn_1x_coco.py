"""RetinaNet with BiFormer-S (arXiv:2303.08810) on COCO, 12 epochs.

Published: box AP 45.9 (47.3 in the authors' second run) (the authors' README).

The regions are 16 x 16 of the picture's, and batch norms keep their statistics. The weights are the authors' file.
"""

_base_ = [
    "mmdet::_base_/models/retinanet_r50_fpn.py",
    "../_base_/datasets/coco_detection.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/biformer/retinanet_biformer-small"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.BiFormer",
        arch="small",
        n_win=16,
        drop_path_rate=0.2,
        norm_eval=True,
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/biformer_small_best.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512], start_level=0),
)
optim_wrapper = dict(optimizer=dict(weight_decay=1e-4))
