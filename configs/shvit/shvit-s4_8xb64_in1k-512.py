"""SHViT-S4 (arXiv:2401.16456) on ImageNet-1k, brought from 256 to 512 in 30 epochs.

Published: top-1 82.0 (the paper).

The rate is the one that the released scripts name.
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_finetune_30e.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/shvit/shvit-s4_in1k-512"

model = dict(
    backbone=dict(
        type="SHViT",
        arch="s4",
        out_indices=(2,),
        init_cfg=dict(type="Pretrained", checkpoint="timm://shvit_s4.in1k"),
    ),
    head=dict(type="LinearHead", in_channels=448, num_classes=1000, norm="BatchNorm"),
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(input_size=512)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(input_size=512, crop_pct=1.0)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=4e-3))
