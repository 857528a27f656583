"""BiFormer-B (arXiv:2303.08810) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 84.3; 56.8 M parameters, 9.8 G multiply-adds (the authors' README).
"""

_base_ = "biformer-tiny_8xb128_in1k.py"
work_dir = "work_dirs/biformer/biformer-base_in1k"

model = dict(backbone=dict(arch="base", drop_path_rate=0.4), head=dict(in_channels=768))
