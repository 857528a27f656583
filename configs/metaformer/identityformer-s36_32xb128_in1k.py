"""IdentityFormer-S36 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 79.3; 31 M parameters (the authors' README).
"""

_base_ = "identityformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/identityformer-s36_in1k"

model = dict(backbone=dict(arch="s36", drop_path_rate=0.2))
