"""PoolFormerV2-S24 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 80.7; 21 M parameters (the authors' README).
"""

_base_ = "poolformerv2-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/poolformerv2-s24_in1k"

model = dict(backbone=dict(arch="s24", drop_path_rate=0.1))
