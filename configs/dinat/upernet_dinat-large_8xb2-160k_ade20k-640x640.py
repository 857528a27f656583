"""UPerNet with DiNAT-Large (arXiv:2209.15001) on ADE20K, 160,000 iterations.

Published: mIoU 54.0, 54.9 of several scales; 238 M parameters (the authors' README).

Pictures of 640 x 640, weights of ImageNet-22k, dilations for that size.
"""

_base_ = "upernet_dinat-mini_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/dinat/upernet_dinat-large"

model = dict(
    data_preprocessor=dict(size=(640, 640)),
    backbone=dict(
        arch="large",
        dilations="segmentation_640",
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint="checkpoints/dinat_large_in22k_224.pth"),
    ),
    decode_head=dict(in_channels=[192, 384, 768, 1536]),
    auxiliary_head=dict(in_channels=768),
)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="RandomResize", scale=(2560, 640), ratio_range=(0.5, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_size=(640, 640), cat_max_ratio=0.75),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PhotoMetricDistortion"),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(2560, 640), keep_ratio=True),
    dict(type="LoadAnnotations", reduce_zero_label=True),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
