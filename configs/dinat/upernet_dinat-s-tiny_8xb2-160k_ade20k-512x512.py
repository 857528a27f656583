"""UPerNet with DiNAT_s-Tiny (arXiv:2209.15001) on ADE20K, 160,000 iterations.

Published: mIoU 46.0, 47.4 of several scales (the authors' README).

The weights are the authors' file of ImageNet-1k, to be put there.
"""

_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
    "../_base_/segmentor_runtime.py",
]
work_dir = "work_dirs/dinat/upernet_dinat-s-tiny"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type="bestiary.DiNATs",
        arch="tiny",
        dilations="segmentation",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="checkpoints/dinat_s_tiny_in1k_224.pth"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=150),
    auxiliary_head=dict(in_channels=384, num_classes=150),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(rpb=dict(decay_mult=0.0))))
