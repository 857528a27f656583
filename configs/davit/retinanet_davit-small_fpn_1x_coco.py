"""RetinaNet with DaViT-S (arXiv:2204.03645) on COCO, 12 epochs.

Published: box AP 46.0; 59.9 M parameters, 332 G multiply-adds at 1280 x 800 (the authors' README).

Counted here: 336 G multiply-adds; the authors' counter seems to leave out the products within attention.
"""

_base_ = "retinanet_davit-tiny_fpn_1x_coco.py"
work_dir = "work_dirs/davit/retinanet_davit-small_1x"

model = dict(backbone=dict(arch="small", init_cfg=dict(checkpoint="timm://davit_small.msft_in1k")))
