"""UPerNet with FocalNet-T (SRF, arXiv:2203.11926) on ADE20K, 160,000 iterations.

Published: mIoU 46.5, 47.2 of several scales; 61 M parameters, 944 G multiply-adds at 2048 x 512 (the authors' README).
"""

_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
    "../_base_/segmentor_runtime.py",
]
work_dir = "work_dirs/focalnet/upernet_focalnet-tiny-srf"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type="bestiary.FocalNet",
        arch="tiny_srf",
        focal_windows=9,
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm://focalnet_tiny_srf.ms_in1k"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=150),
    auxiliary_head=dict(in_channels=384, num_classes=150),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0))
