"""RetinaNet with PoolFormer-S36 (arXiv:2111.11418) on COCO, 12 epochs.

Published: box AP 39.5; 40.6 M parameters (the authors' README).
"""

_base_ = "retinanet_poolformer-s12_fpn_1x_coco.py"
work_dir = "work_dirs/poolformer/retinanet_poolformer-s36"

model = dict(backbone=dict(arch="s36", init_cfg=dict(checkpoint="timm://poolformer_s36.sail_in1k")))
