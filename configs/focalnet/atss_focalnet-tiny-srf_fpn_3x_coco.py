"""ATSS with FocalNet-T (SRF, arXiv:2203.11926) on COCO, 36 epochs.

Published: box AP 49.2; 36.5 M parameters, 215 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mmdet::atss/atss_r50_fpn_1x_coco.py"
custom_imports = dict(imports=["bestiary", "bestiary.inputs.detection_transforms"])
work_dir = "work_dirs/focalnet/atss_focalnet-tiny-srf"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.FocalNet",
        arch="tiny_srf",
        focal_windows=[11, 9, 9, 7],
        drop_path_rate=0.3,
        out_indices=(1, 2, 3),
        init_cfg=dict(type="Pretrained", checkpoint="timm://focalnet_tiny_srf.ms_in1k"),
    ),
    neck=dict(in_channels=[192, 384, 768], start_level=0),
)

# DETR's augmentation, as the other detectors of this folder have it.
sides = [(side, 1333) for side in range(480, 801, 32)]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.LoadAnnotations", with_bbox=True),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomChoice",
        transforms=[
            [dict(type="RandomChoiceResize", scales=sides, keep_ratio=True)],
            [
                dict(type="RandomChoiceResize", scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
                dict(type="RandomChoiceResize", scales=sides, keep_ratio=True),
            ],
        ],
    ),
    dict(type="bestiary.PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
max_epochs = 36
train_cfg = dict(max_epochs=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.001, by_epoch=False, begin=0, end=500),
    dict(type="MultiStepLR", by_epoch=True, begin=0, end=max_epochs, milestones=[27, 33], gamma=0.1),
]
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type="AdamW", lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0),
)
auto_scale_lr = dict(base_batch_size=16)
