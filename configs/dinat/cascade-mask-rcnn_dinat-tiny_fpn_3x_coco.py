"""Cascade Mask R-CNN with DiNAT-Tiny (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 52.2, mask AP 45.1; 85 M parameters, 737 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_dinat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/cascade-mask-rcnn_dinat-tiny"

model = dict(
    backbone=dict(arch="tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_tiny_in1k_224.pth")),
)
