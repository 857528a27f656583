"""DiNAT_s-Base (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 83.8; 88 M parameters, 15.4 G multiply-adds (the authors' README).
"""

_base_ = "dinat-s-tiny_8xb128_in1k.py"
work_dir = "work_dirs/dinat/dinat-s-base_in1k"

model = dict(backbone=dict(arch="base", drop_path_rate=0.5), head=dict(in_channels=1024))
