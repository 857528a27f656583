"""Mask R-CNN with DiNAT-Tiny (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 48.6, mask AP 43.5; 48 M parameters, 258 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "mask-rcnn_dinat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/mask-rcnn_dinat-tiny"

model = dict(
    backbone=dict(arch="tiny", drop_path_rate=0.2, init_cfg=dict(checkpoint="checkpoints/dinat_tiny_in1k_224.pth")),
)
