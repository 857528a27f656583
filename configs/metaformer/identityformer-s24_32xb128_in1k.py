"""IdentityFormer-S24 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 78.2; 21 M parameters (the authors' README).
"""

_base_ = "identityformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/identityformer-s24_in1k"

model = dict(backbone=dict(arch="s24", drop_path_rate=0.1))
