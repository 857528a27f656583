"""PoolFormer-S12 (arXiv:2111.11418) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 77.2; 12 M parameters, 1.8 G multiply-adds (the authors' README).
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup5.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/poolformer/poolformer-s12_in1k"

model = dict(
    backbone=dict(type="PoolFormer", arch="s12", drop_path_rate=0.1, out_indices=(3,), out_norm=False),
    head=dict(type="LinearHead", in_channels=512, num_classes=1000, norm="GroupNorm1", norm_first=True),
)
optim_wrapper = dict(optimizer=dict(lr=4e-3))
auto_scale_lr = dict(base_batch_size=4096)
