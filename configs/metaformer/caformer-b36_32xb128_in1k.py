"""CAFormer-B36 (arXiv:2210.13452) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 85.5; 98.8 M parameters, 23.2 G multiply-adds (the authors' README).
"""

_base_ = "caformer-s18_32xb128_in1k.py"
work_dir = "work_dirs/metaformer/caformer-b36_in1k"

model = dict(backbone=dict(arch="b36", drop_path_rate=0.6), head=dict(in_channels=768, dropout=0.5))
