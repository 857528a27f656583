"""Cascade Mask R-CNN with DiNAT_s-Large (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 54.8, mask AP 47.2 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_dinat-s-tiny_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/cascade-mask-rcnn_dinat-s-large"

model = dict(
    backbone=dict(
        arch="large", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/dinat_s_large_in22k_224.pth")
    ),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=5e-5))
