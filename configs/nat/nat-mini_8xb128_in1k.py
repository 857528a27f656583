"""NAT-Mini (arXiv:2204.07143) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 81.8; 20 M parameters, 2.7 G multiply-adds (the authors' README).
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup20.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/nat/nat-mini_in1k"

model = dict(
    backbone=dict(type="NAT", arch="mini", drop_path_rate=0.2, out_indices=(3,), out_norm=False),
    head=dict(type="LinearHead", in_channels=512, num_classes=1000, norm="LayerNorm", norm_first=True),
)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(crop_pct=0.875)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(rpb=dict(decay_mult=0.0))), clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=True, begin=0, end=20, convert_to_iter_based=True),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=20, end=300, eta_min=5e-6, convert_to_iter_based=True),
]
