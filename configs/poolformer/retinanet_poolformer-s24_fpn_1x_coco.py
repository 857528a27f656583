"""RetinaNet with PoolFormer-S24 (arXiv:2111.11418) on COCO, 12 epochs.

Published: box AP 38.9; 31.1 M parameters (the authors' README).
"""

_base_ = "retinanet_poolformer-s12_fpn_1x_coco.py"
work_dir = "work_dirs/poolformer/retinanet_poolformer-s24"

model = dict(backbone=dict(arch="s24", init_cfg=dict(checkpoint="timm://poolformer_s24.sail_in1k")))
