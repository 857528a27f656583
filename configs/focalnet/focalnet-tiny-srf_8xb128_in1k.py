"""FocalNet-T (SRF, arXiv:2203.11926) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.1; 28.4 M parameters, 4.4 G multiply-adds (the authors' README).

The paper's recipe; the defaults of the released code differ from it.
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_300e_warmup20.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/focalnet/focalnet-tiny-srf_in1k"

model = dict(
    backbone=dict(type="FocalNet", arch="tiny_srf", drop_path_rate=0.2, out_indices=(3,), out_norm=False),
    head=dict(type="LinearHead", in_channels=768, num_classes=1000, norm="LayerNorm", norm_first=True),
    mixup=dict(cutmix_alpha=0.8),
)
optim_wrapper = dict(clip_grad=dict(max_norm=5.0))
