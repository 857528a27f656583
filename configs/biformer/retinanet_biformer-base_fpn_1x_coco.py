"""RetinaNet with BiFormer-B (arXiv:2303.08810) on COCO, 12 epochs.

Published: box AP 47.1 (the authors' README).
"""

_base_ = "retinanet_biformer-small_fpn_1x_coco.py"
work_dir = "work_dirs/biformer/retinanet_biformer-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/biformer_base_best.pth")),
    neck=dict(in_channels=[192, 384, 768]),
)
