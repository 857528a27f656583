"""UPerNet with ConvFormer-S18 (arXiv:2210.13452) on ADE20K, 160,000 iterations.

Published: mIoU 48.6; 54 M parameters, 925 G multiply-adds at 2048 x 512 (PolyNeXt's README, not the authors').
"""

_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
    "../_base_/segmentor_runtime.py",
]
work_dir = "work_dirs/metaformer/upernet_convformer-s18"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type="bestiary.ConvFormer",
        arch="s18",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm://convformer_s18.sail_in1k"),
    ),
    decode_head=dict(in_channels=[64, 128, 320, 512], num_classes=150),
    auxiliary_head=dict(in_channels=320, num_classes=150),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    optimizer=dict(lr=1e-4, weight_decay=0.05),
    paramwise_cfg=dict(
        norm_decay_mult=0.0, custom_keys={"scale": dict(decay_mult=0.0), "decode_head": dict(lr_mult=10.0)}
    ),
)
