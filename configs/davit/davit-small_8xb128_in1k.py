"""DaViT-S (arXiv:2204.03645) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 84.2; 49.7 M parameters, 8.8 G multiply-adds (the authors' README).
"""

_base_ = "davit-tiny_8xb128_in1k.py"
work_dir = "work_dirs/davit/davit-small_in1k"

model = dict(backbone=dict(arch="small"))
