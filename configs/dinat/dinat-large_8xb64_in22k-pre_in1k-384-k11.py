"""DiNAT-Large (arXiv:2209.15001) on ImageNet-1k at 384, kernels of 11, from ImageNet-22k's weights, 30 epochs.

Published: top-1 87.5; 201 M parameters, 92.4 G multiply-adds (the authors' README).

The weights are the authors' file of ImageNet-22k, to be put there.
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_finetune_30e.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/dinat/dinat-large_in22k-pre_in1k-384-k11"

model = dict(
    backbone=dict(
        type="DiNAT",
        arch="large_384_k11",
        drop_path_rate=0.35,
        out_indices=(3,),
        out_norm=False,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_large_in22k_224.pth"),
    ),
    head=dict(type="LinearHead", in_channels=1536, num_classes=1000, norm="LayerNorm", norm_first=True),
    mixup=None,
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(input_size=384)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(input_size=384, crop_pct=1.0)
train_dataloader = dict(batch_size=64, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(weight_decay=1e-10), paramwise_cfg=dict(custom_keys=dict(rpb=dict(decay_mult=0.0))))
param_scheduler = [
    dict(type="LinearLR", start_factor=1.0, end_factor=0.0, by_epoch=True, begin=0, end=30, convert_to_iter_based=True)
]
custom_hooks = []
