"""ECA-ResNet-152 (arXiv:1910.03151) on ImageNet-1k from scratch, 100 epochs.

Published: top-1 78.92; 60.19 M parameters (the authors' README, whose 57.41 M and 10.83 G are of 2^20 and 2^30).
"""

_base_ = "eca-resnet50_8xb32_in1k.py"
work_dir = "work_dirs/resnet/eca-resnet152_in1k"

model = dict(backbone=dict(arch="eca_resnet152"))
