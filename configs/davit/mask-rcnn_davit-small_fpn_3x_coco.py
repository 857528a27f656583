"""Mask R-CNN with DaViT-S (arXiv:2204.03645) on COCO, 36 epochs.

Published: box AP 49.5, mask AP 44.3; 69.2 M parameters, 351 G multiply-adds at 1280 x 800 (the authors' README).

Counted here: 355 G multiply-adds; the authors' counter seems to leave out the products within attention.
"""

_base_ = "mask-rcnn_davit-tiny_fpn_3x_coco.py"
work_dir = "work_dirs/davit/mask-rcnn_davit-small_3x"

model = dict(backbone=dict(arch="small", init_cfg=dict(checkpoint="timm://davit_small.msft_in1k")))
