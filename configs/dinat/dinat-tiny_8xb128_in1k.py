"""DiNAT-Tiny (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.7; 28 M parameters, 4.3 G multiply-adds (the authors' README).
"""

_base_ = "dinat-mini_8xb128_in1k.py"
work_dir = "work_dirs/dinat/dinat-tiny_in1k"

model = dict(backbone=dict(arch="tiny", drop_path_rate=0.2))
