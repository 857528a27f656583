"""Semantic FPN with PoolFormer-S36 (arXiv:2111.11418) on ADE20K, 40,000 iterations.

Published: mIoU 42.0; 34.6 M parameters (the authors' README).
"""

_base_ = "fpn_poolformer-s12_8xb4-40k_ade20k-512x512.py"
work_dir = "work_dirs/poolformer/fpn_poolformer-s36"

model = dict(backbone=dict(arch="s36", init_cfg=dict(checkpoint="timm://poolformer_s36.sail_in1k")))
