"""Isotropic NAT Base (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 81.6; 86 M parameters, 16.9 G multiply-adds (the authors' README).
"""

_base_ = "nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/nat/nat-iso-base_in1k"

model = dict(
    backbone=dict(type="IsotropicNAT", arch="base", drop_path_rate=0.4, out_indices=(0,)), head=dict(in_channels=768)
)
