"""Isotropic NAT Small (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 80.0; 22 M parameters, 4.3 G multiply-adds (the authors' README).
"""

_base_ = "nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/nat/nat-iso-small_in1k"

model = dict(
    backbone=dict(type="IsotropicNAT", arch="small", drop_path_rate=0.1, out_indices=(0,)), head=dict(in_channels=384)
)
