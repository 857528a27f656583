"""Mask R-CNN with MHS-VM-T (after arXiv:2406.05992) on COCO, 12 epochs.

Nobody has published this detector's scores; VMamba's of its size has box and
mask AP 47.3 and 42.7. The recipe is Swin's.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/datasets/coco_instance.py",
    "../_base_/schedules/coco_1x.py",
    "../_base_/detector_runtime.py",
]
work_dir = "work_dirs/mhs_vm/mask-rcnn_mhsvm-tiny"

model = dict(
    backbone=dict(
        _delete_=True,
        type="bestiary.MHSVM",
        arch="tiny",
        drop_path_rate=0.2,
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/mhs_vm/mhsvm-tiny_in1k/epoch_300.pth"),
    ),
    neck=dict(in_channels=[128, 256, 512, 1024]),
)
optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.0, custom_keys={"scan.A_log": dict(decay_mult=0.0), "scan.D": dict(decay_mult=0.0)}
    )
)
