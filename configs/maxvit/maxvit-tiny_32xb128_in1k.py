"""MaxViT-T (arXiv:2204.01697) on ImageNet-1k from scratch at 224, 300 epochs.

Published: top-1 83.62; 31 M parameters, 5.6 G multiply-adds (the paper, table 2).
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup20.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/maxvit/maxvit-tiny_in1k"

model = dict(
    backbone=dict(type="MaxViT", arch="tiny_tf_224", drop_path_rate=0.2, out_indices=(3,)),
    head=dict(type="NormMlpHead", in_channels=512, num_classes=1000),
    mixup=dict(cutmix_alpha=0.0),
)
# The paper's recipe: two operations of strength 15, nothing erased.
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(auto_augment="rand-m15-n2", re_prob=0.0, color_jitter=0.0)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(crop_pct=0.95)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# 10,000 steps of warm-up are 32 epochs of batches of 4,096.
optim_wrapper = dict(optimizer=dict(lr=3e-3), clip_grad=dict(max_norm=1.0))
param_scheduler = [
    dict(type="LinearLR", start_factor=1e-3, by_epoch=False, begin=0, end=10000),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=32, end=300, eta_min=1e-5, convert_to_iter_based=True),
]
auto_scale_lr = dict(base_batch_size=4096)
