"""DaViT-T (arXiv:2204.03645) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.8; 28.3 M parameters, 4.5 G multiply-adds (the authors' README).
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup5.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/davit/davit-tiny_in1k"

model = dict(
    backbone=dict(type="DaViT", arch="tiny", drop_path_rate=0.1, out_indices=(3,), out_norm=False),
    head=dict(type="LinearHead", in_channels=768, num_classes=1000, norm="LayerNorm"),
)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(crop_pct=0.95)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(clip_grad=dict(max_norm=1.0))
