"""ConvFormer-M36 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 84.5; 57.1 M parameters, 12.8 G multiply-adds (the authors' README).
"""

_base_ = "convformer-s18_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/convformer-m36_in1k"

model = dict(backbone=dict(arch="m36", drop_path_rate=0.4), head=dict(in_channels=576))
