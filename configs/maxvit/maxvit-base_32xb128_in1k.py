"""MaxViT-B (arXiv:2204.01697) on ImageNet-1k from scratch at 224, 300 epochs.

Published: top-1 84.95; 119 M parameters, 24.2 G multiply-adds (the paper, table 2).

Counted here: 23.9 G multiply-adds; the paper's framework gathers position biases by products with one-hot matrices,
and counts them.
"""

_base_ = "maxvit-tiny_32xb128_in1k.py"
work_dir = "work_dirs/maxvit/maxvit-base_in1k"

model = dict(backbone=dict(arch="base_tf_224", drop_path_rate=0.4), head=dict(in_channels=768))
