"""DaViT-B (arXiv:2204.03645) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 84.6; 87.9 M parameters, 15.5 G multiply-adds (the authors' README).
"""

_base_ = "davit-tiny_8xb128_in1k.py"
work_dir = "work_dirs/davit/davit-base_in1k"

model = dict(backbone=dict(arch="base"), head=dict(in_channels=1024))
