"""NAT-Tiny (arXiv:2204.07143) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 83.2; 28 M parameters, 4.3 G multiply-adds (the authors' README).
"""

_base_ = "nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/nat/nat-tiny_in1k"

model = dict(backbone=dict(arch="tiny", drop_path_rate=0.2))
