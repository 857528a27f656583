"""UPerNet with MHS-VM-T (after arXiv:2406.05992) on ADE20K, 160,000 iterations.

Nobody has published this segmentor's score; VMamba's of its size has mIoU 47.9. The recipe is Swin's.
"""

_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "mmseg::_base_/datasets/ade20k.py",
    "../_base_/schedules/ade20k_160k.py",
    "../_base_/segmentor_runtime.py",
]
work_dir = "work_dirs/mhs_vm/upernet_mhsvm-tiny"

model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(
        _delete_=True,
        type="bestiary.MHSVM",
        arch="tiny",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/mhs_vm/mhsvm-tiny_in1k/epoch_300.pth"),
    ),
    decode_head=dict(in_channels=[128, 256, 512, 1024], num_classes=150),
    auxiliary_head=dict(in_channels=512, num_classes=150),
)
train_dataloader = dict(batch_size=2)
optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.0, custom_keys={"scan.A_log": dict(decay_mult=0.0), "scan.D": dict(decay_mult=0.0)}
    )
)
