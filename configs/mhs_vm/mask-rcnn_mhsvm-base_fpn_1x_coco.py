"""Mask R-CNN with MHS-VM-B (after arXiv:2406.05992) on COCO, 12 epochs.

Nobody has published this detector's scores; VMamba's of its size has box and
mask AP 49.2 and 44.1. The recipe is Swin's.
"""

_base_ = "mask-rcnn_mhsvm-tiny_fpn_1x_coco.py"
work_dir = "work_dirs/mhs_vm/mask-rcnn_mhsvm-base"

model = dict(
    backbone=dict(
        arch="base",
        drop_path_rate=0.3,
        init_cfg=dict(checkpoint="work_dirs/mhs_vm/mhsvm-base_in1k/epoch_300.pth"),
    ),
    neck=dict(in_channels=[176, 352, 704, 1408]),
)
