"""BiFormer-T (arXiv:2303.08810) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 81.4; 13.1 M parameters, 2.2 G multiply-adds (the authors' README).
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup5.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/biformer/biformer-tiny_in1k"

model = dict(
    backbone=dict(type="BiFormer", arch="tiny", drop_path_rate=0.1, out_indices=(3,), out_norm=False),
    head=dict(type="LinearHead", in_channels=512, num_classes=1000, norm="BatchNorm2d", norm_first=True),
)
train_dataloader = dict(sampler=dict(_delete_=True, type="RepeatAugmentSampler"))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(crop_pct=0.875)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
custom_hooks = [dict(type="EMAHook", momentum=4e-5, update_buffers=True)]
