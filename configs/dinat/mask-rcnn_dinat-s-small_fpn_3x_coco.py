"""Mask R-CNN with DiNAT_s-Small (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 48.6, mask AP 43.5 (the authors' README).
"""

_base_ = "mask-rcnn_dinat-s-tiny_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/mask-rcnn_dinat-s-small"

model = dict(
    backbone=dict(
        arch="small", drop_path_rate=0.35, init_cfg=dict(checkpoint="checkpoints/dinat_s_small_in1k_224.pth")
    ),
)
