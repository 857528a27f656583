"""ECA-ResNet-101 (arXiv:1910.03151) on ImageNet-1k from scratch, 100 epochs.

Published: top-1 78.65; 44.55 M parameters (the authors' README, whose 42.49 M and 7.35 G are of 2^20 and 2^30).
"""

_base_ = "eca-resnet50_8xb32_in1k.py"
work_dir = "work_dirs/resnet/eca-resnet101_in1k"

model = dict(backbone=dict(arch="eca_resnet101"))
