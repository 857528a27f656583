"""RetinaNet with DaViT-B (arXiv:2204.03645) on COCO, 12 epochs.

Published: box AP 46.7; 98.5 M parameters, 471 G multiply-adds at 1280 x 800 (the authors' README).

Counted here: 477 G multiply-adds; the authors' counter seems to leave out the products within attention.
"""

_base_ = "retinanet_davit-tiny_fpn_1x_coco.py"
work_dir = "work_dirs/davit/retinanet_davit-base_1x"

model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="timm://davit_base.msft_in1k")),
    neck=dict(in_channels=[256, 512, 1024]),
)
