"""ECA-ResNet-34 (arXiv:1910.03151) on ImageNet-1k from scratch, 100 epochs.

Published: top-1 74.21; 21.80 M parameters (the authors' README, whose 20.79 M and 3.43 G are of 2^20 and 2^30).
"""

_base_ = "eca-resnet50_8xb32_in1k.py"
work_dir = "work_dirs/resnet/eca-resnet34_in1k"

model = dict(backbone=dict(arch="eca_resnet34"), head=dict(in_channels=512))
