"""DiNAT_s-Small (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 83.5; 50 M parameters, 8.7 G multiply-adds (the authors' README).
"""

_base_ = "dinat-s-tiny_8xb128_in1k.py"
work_dir = "work_dirs/dinat/dinat-s-small_in1k"

model = dict(backbone=dict(arch="small", drop_path_rate=0.3))
