"""CAFormer-M36 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 85.2; 56.2 M parameters, 13.2 G multiply-adds (the authors' README).
"""

_base_ = "caformer-s18_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/caformer-m36_in1k"

model = dict(backbone=dict(arch="m36", drop_path_rate=0.4), head=dict(in_channels=576, dropout=0.4))
