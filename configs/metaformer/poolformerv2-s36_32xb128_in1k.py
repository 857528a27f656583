"""PoolFormerV2-S36 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 81.6; 31 M parameters (the authors' README).
"""

_base_ = "poolformerv2-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/poolformerv2-s36_in1k"

model = dict(backbone=dict(arch="s36", drop_path_rate=0.2))
