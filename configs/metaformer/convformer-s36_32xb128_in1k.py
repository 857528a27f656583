"""ConvFormer-S36 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 84.1; 40.0 M parameters, 7.6 G multiply-adds (the authors' README).
"""

_base_ = "convformer-s18_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/convformer-s36_in1k"

model = dict(backbone=dict(arch="s36", drop_path_rate=0.3))
