"""Mask R-CNN with MHS-VM-S (after arXiv:2406.05992) on COCO, 12 epochs.

Nobody has published this detector's scores; VMamba's of its size has box and
mask AP 48.7 and 43.7. The recipe is Swin's.
"""

_base_ = "mask-rcnn_mhsvm-tiny_fpn_1x_coco.py"
work_dir = "work_dirs/mhs_vm/mask-rcnn_mhsvm-small"

model = dict(
    backbone=dict(
        arch="small",
        drop_path_rate=0.2,
        init_cfg=dict(checkpoint="work_dirs/mhs_vm/mhsvm-small_in1k/epoch_300.pth"),
    ),
)
