"""SHViT-S2 (arXiv:2401.16456) on ImageNet-1k from scratch at 224, 300 epochs.

Published: top-1 75.2; 11.4 M parameters, 0.366 G multiply-adds (the paper).
"""

_base_ = "shvit-s1_8xb256_in1k.py"
work_dir = "work_dirs/shvit/shvit-s2_in1k"

model = dict(backbone=dict(arch="s2"), head=dict(in_channels=448))
optim_wrapper = dict(optimizer=dict(weight_decay=0.032))
