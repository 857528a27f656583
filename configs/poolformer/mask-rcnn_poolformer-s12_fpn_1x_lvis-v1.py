"""Mask R-CNN with PoolFormer-S12 (arXiv:2111.11418) on LVIS v1, 12 epochs.

Nobody has published this detector's score. The rate is that of the authors' config for COCO.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/lvis_v1_instance.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/poolformer/mask-rcnn_poolformer-s12_lvis-v1"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.PoolFormer",
        arch="s12",
        init_cfg=dict(type="Pretrained", checkpoint="timm://poolformer_s12.sail_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    roi_head=dict(bbox_head=dict(num_classes=1203), mask_head=dict(num_classes=1203)),
    # Many classes, few of them sure: scores from 0.0001 on, and 300 boxes, as LVIS counts.
    test_cfg=dict(rcnn=dict(score_thr=0.0001, max_per_img=300)),
)
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
