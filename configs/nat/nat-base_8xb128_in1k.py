"""NAT-Base (arXiv:2204.07143) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 84.3; 90 M parameters, 13.7 G multiply-adds (the authors' README).
"""

_base_ = "nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/nat/nat-base_in1k"

model = dict(backbone=dict(arch="base", drop_path_rate=0.5), head=dict(in_channels=1024))
