"""Cascade Mask R-CNN with DiNAT_s-Small (arXiv:2209.15001) on COCO, 36 epochs.

Published: box AP 52.3, mask AP 45.2 (the authors' README).
"""

_base_ = "cascade-mask-rcnn_dinat-s-tiny_fpn_3x_coco.py"
work_dir = "work_dirs/dinat/cascade-mask-rcnn_dinat-s-small"

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/dinat_s_small_in1k_224.pth")),
)
