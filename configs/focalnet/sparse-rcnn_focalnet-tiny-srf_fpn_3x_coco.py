"""Sparse R-CNN with FocalNet-T (SRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 49.6; 110.5 M parameters, 172 G multiply-adds at 1280 x 800 (the authors' README).

Counted here: 176 G multiply-adds; the authors' counter left out the products of dynamic convolutions.
"""

_base_ = "mmdet::sparse_rcnn/sparse-rcnn_r50_fpn_300-proposals_crop-ms-480-800-3x_coco.py"
custom_imports = dict(imports=["bestiary"])
work_dir = "work_dirs/focalnet/sparse-rcnn_focalnet-tiny-srf"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.FocalNet",
        arch="tiny_srf",
        focal_windows=[11, 9, 9, 7],
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm://focalnet_tiny_srf.ms_in1k"),
    ),
    neck=dict(in_channels=[96, 192, 384, 768]),
)
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
auto_scale_lr = dict(base_batch_size=16)
