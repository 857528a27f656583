"""NAT-Small (arXiv:2204.07143) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 83.7; 51 M parameters, 7.8 G multiply-adds (the authors' README).
"""

_base_ = "nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/nat/nat-small_in1k"

model = dict(backbone=dict(arch="small", drop_path_rate=0.3), head=dict(in_channels=768))
