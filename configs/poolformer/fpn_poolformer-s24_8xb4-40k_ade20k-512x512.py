"""Semantic FPN with PoolFormer-S24 (arXiv:2111.11418) on ADE20K, 40,000 iterations.

Published: mIoU 40.3; 23.2 M parameters (the authors' README).

Counted here: 25.1 M parameters; 20.9 M of the backbone and 4.3 M of the rest; the paper's figure looks like a slip.
"""

_base_ = "fpn_poolformer-s12_8xb4-40k_ade20k-512x512.py"
work_dir = "work_dirs/poolformer/fpn_poolformer-s24"

model = dict(backbone=dict(arch="s24", init_cfg=dict(checkpoint="timm://poolformer_s24.sail_in1k")))
