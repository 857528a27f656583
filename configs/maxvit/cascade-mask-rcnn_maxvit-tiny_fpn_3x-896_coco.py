"""Cascade Mask R-CNN with MaxViT-T (arXiv:2204.01697) on COCO at 896 x 896.

Published: box AP 52.1, mask AP 44.6; 69 M parameters, 475 G multiply-adds at 896 x 896 (the paper, table 4).

Counted here: 82.6 M parameters, 352 G multiply-adds; pyramid and heads are mmdet's.

The paper's detectors were made in another framework and their code was not released: pyramid and heads here are
mmdet's, whose parameters and multiply-adds are others, and the length of the schedule, which the paper does not give,
is 3x. Windows are a 32nd of the picture, 28 x 28 here, as the paper's counts suggest.
"""

_base_ = [
    "mmdet::_base_/models/cascade-mask-rcnn_r50_fpn.py",
    "../_base_/datasets/coco_896.py",
    "../_base_/schedules/coco_3x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/maxvit/cascade-mask-rcnn_maxvit-tiny"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.MaxViT",
        arch="tiny_tf_224",
        drop_path_rate=0.8,
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained", checkpoint="timm://maxvit_tiny_tf_224.in1k"),
    ),
    neck=dict(in_channels=[128, 256, 512], num_outs=4),
    rpn_head=dict(anchor_generator=dict(strides=[8, 16, 32, 64], scales=[4])),
    roi_head=dict(
        bbox_roi_extractor=dict(featmap_strides=[8, 16, 32, 64]),
        mask_roi_extractor=dict(featmap_strides=[8, 16, 32, 64]),
    ),
)
optim_wrapper = dict(optimizer=dict(lr=1e-3))
auto_scale_lr = dict(base_batch_size=256)
