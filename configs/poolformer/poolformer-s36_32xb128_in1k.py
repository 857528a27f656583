"""PoolFormer-S36 (arXiv:2111.11418) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 81.4; 31 M parameters, 5.0 G multiply-adds (the authors' README).
"""

_base_ = "poolformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/poolformer/poolformer-s36_in1k"

model = dict(backbone=dict(arch="s36", drop_path_rate=0.2))
