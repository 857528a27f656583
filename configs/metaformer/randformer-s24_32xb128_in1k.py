"""RandFormer-S24 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 78.2; 21 M parameters, 3.5 G multiply-adds (the authors' README).
"""

_base_ = "randformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/randformer-s24_in1k"

model = dict(backbone=dict(arch="s24", drop_path_rate=0.1))
