"""PoolFormerV2-S12 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 78.0; 12 M parameters (the authors' README).
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup5.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/metaformer/poolformerv2-s12_in1k"

model = dict(
    backbone=dict(type="PoolFormerV2", arch="s12", drop_path_rate=0.1, out_indices=(3,), out_norm=False),
    head=dict(type="LinearHead", in_channels=512, num_classes=1000, norm="LayerNorm", norm_eps=1e-6),
)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(crop_pct=1.0)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(lr=4e-3))
auto_scale_lr = dict(base_batch_size=4096)
