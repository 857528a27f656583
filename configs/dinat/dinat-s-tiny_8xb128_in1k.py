"""DiNAT_s-Tiny (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 81.8; 28 M parameters, 4.5 G multiply-adds (the authors' README).
"""

_base_ = "../nat/nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/dinat/dinat-s-tiny_in1k"

model = dict(backbone=dict(type="DiNATs", arch="tiny"), head=dict(in_channels=768))
