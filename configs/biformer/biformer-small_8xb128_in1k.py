"""BiFormer-S (arXiv:2303.08810) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 83.8; 25.5 M parameters, 4.5 G multiply-adds (the authors' README).
"""

_base_ = "biformer-tiny_8xb128_in1k.py"
work_dir = "work_dirs/biformer/biformer-small_in1k"

model = dict(backbone=dict(arch="small", drop_path_rate=0.15))
