"""UPerNet with NAT-Mini (arXiv:2204.07143) on ADE20K, 160,000 iterations.

Published: mIoU 45.1, 46.4 of several scales; 50 M parameters (the authors' README).

The weights are the authors' file of ImageNet-1k, to be put there.
"""

_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
    "../_base_/segmentor_runtime.py",
]
work_dir = "work_dirs/nat/upernet_nat-mini"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type="bestiary.NAT",
        arch="mini",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/nat_mini_1k.pth"),
    ),
    decode_head=dict(in_channels=[64, 128, 256, 512], num_classes=150),
    auxiliary_head=dict(in_channels=256, num_classes=150),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(rpb=dict(decay_mult=0.0))))
