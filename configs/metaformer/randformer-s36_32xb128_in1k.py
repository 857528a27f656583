"""RandFormer-S36 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 79.5; 31 M parameters, 5.2 G multiply-adds (the authors' README).
"""

_base_ = "randformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/randformer-s36_in1k"

model = dict(backbone=dict(arch="s36", drop_path_rate=0.2))
