"""Semantic FPN with PoolFormer-S12 (arXiv:2111.11418) on ADE20K, 40,000 iterations.

Published: mIoU 37.2; 15.7 M parameters (the authors' README).
"""

_base_ = [
    "mmseg::_base_/models/fpn_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
    "../_base_/segmentor_runtime.py",
]
work_dir = "work_dirs/poolformer/fpn_poolformer-s12"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type="bestiary.PoolFormer",
        arch="s12",
        init_cfg=dict(type="Pretrained", checkpoint="timm://poolformer_s12.sail_in1k"),
    ),
    neck=dict(in_channels=[64, 128, 320, 512]),
    decode_head=dict(num_classes=150),
)
# Sides of whole multiples of 32 in the test.
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2048, 512), keep_ratio=True),
    dict(type="ResizeToMultiple", size_divisor=32),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader

max_iters = 40000
train_cfg = dict(max_iters=max_iters, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
optim_wrapper = dict(optimizer=dict(lr=2e-4, weight_decay=1e-4))
param_scheduler = [dict(type="PolyLR", power=0.9, by_epoch=False, begin=0, end=max_iters, eta_min=0.0)]
auto_scale_lr = dict(base_batch_size=32)
