"""PoolFormer-S24 (arXiv:2111.11418) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 80.3; 21 M parameters, 3.4 G multiply-adds (the authors' README).
"""

_base_ = "poolformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/poolformer/poolformer-s24_in1k"

model = dict(backbone=dict(arch="s24", drop_path_rate=0.1))
