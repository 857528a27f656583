"""IdentityFormer-M48 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 80.4; 73 M parameters (the authors' README).
"""

_base_ = "identityformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/identityformer-m48_in1k"

model = dict(backbone=dict(arch="m48", drop_path_rate=0.4), head=dict(in_channels=768))
