"""Isotropic DiNAT Small (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 80.8; 22 M parameters, 4.3 G multiply-adds (the authors' README).
"""

_base_ = "../nat/nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/dinat/dinat-iso-small_in1k"

model = dict(
    backbone=dict(type="IsotropicDiNAT", arch="small", drop_path_rate=0.1, out_indices=(0,)), head=dict(in_channels=384)
)
