"""PoolFormerV2-M36 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.2; 56 M parameters (the authors' README).
"""

_base_ = "poolformerv2-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/poolformerv2-m36_in1k"

model = dict(backbone=dict(arch="m36", drop_path_rate=0.3), head=dict(in_channels=768))
