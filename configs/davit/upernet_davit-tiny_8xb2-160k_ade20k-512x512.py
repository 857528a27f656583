"""UPerNet with DaViT-T (arXiv:2204.03645) on ADE20K, 160,000 iterations.

Published: mIoU 46.3; 60 M parameters, 940 G multiply-adds at 2048 x 512 (the authors' README).

The authors' heads have plain batch norms; SyncBN here, as mmseg's.
"""

_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
    "../_base_/segmentor_runtime.py",
]
work_dir = "work_dirs/davit/upernet_davit-tiny"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type="bestiary.DaViT",
        arch="tiny",
        drop_path_rate=0.3,
        init_cfg=dict(type="Pretrained", checkpoint="timm://davit_tiny.msft_in1k"),
    ),
    decode_head=dict(in_channels=[96, 192, 384, 768], num_classes=150),
    auxiliary_head=dict(in_channels=384, num_classes=150),
)
train_dataloader = dict(batch_size=2)
