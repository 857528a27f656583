"""SHViT-S1 (arXiv:2401.16456) on ImageNet-1k from scratch at 224, 300 epochs.

Published: top-1 72.8; 6.3 M parameters, 0.241 G multiply-adds (the paper).

The released code's rate, 1e-3 * batch / 512; the paper's text says 1e-3.
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup5.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/shvit/shvit-s1_in1k"

model = dict(
    backbone=dict(type="SHViT", arch="s1", out_indices=(2,)),
    head=dict(type="LinearHead", in_channels=320, num_classes=1000, norm="BatchNorm"),
)
train_dataloader = dict(batch_size=256, sampler=dict(_delete_=True, type="RepeatAugmentSampler"))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(crop_pct=0.875)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
# Gradients are clipped by the size of the weights they change (arXiv:2102.06171).
optim_wrapper = dict(
    _delete_=True,
    type="AdaptiveClipOptimWrapper",
    optimizer=dict(type="AdamW", lr=4e-3, betas=(0.9, 0.999), weight_decay=0.025),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_factor=0.02,
)
custom_hooks = [dict(type="EMAHook", momentum=4e-5, update_buffers=True)]
auto_scale_lr = dict(base_batch_size=2048)
