"""Cascade Mask R-CNN with DiNAT-Large (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 55.3, mask AP 47.8; 258 M parameters, 1276 G multiply-adds at 1280 x 800 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_dinat-mini_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/cascade-mask-rcnn_dinat-large"

model = dict(
    backbone=dict(arch="large", drop_path_rate=0.6, init_cfg=dict(checkpoint="checkpoints/dinat_large_in22k_224.pth")),
    neck=dict(in_channels=[192, 384, 768, 1536]),
)
optim_wrapper = dict(optimizer=dict(lr=7.5e-5))
