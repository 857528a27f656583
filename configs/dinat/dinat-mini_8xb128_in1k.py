"""DiNAT-Mini (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 81.8; 20 M parameters, 2.7 G multiply-adds (the authors' README).
"""

_base_ = "../nat/nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/dinat/dinat-mini_in1k"

model = dict(backbone=dict(type="DiNAT"))
