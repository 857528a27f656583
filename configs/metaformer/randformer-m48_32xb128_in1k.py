"""RandFormer-M48 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 81.4; 73 M parameters, 11.9 G multiply-adds (the authors' README).
"""

_base_ = "randformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/randformer-m48_in1k"

model = dict(backbone=dict(arch="m48", drop_path_rate=0.3), head=dict(in_channels=768))
