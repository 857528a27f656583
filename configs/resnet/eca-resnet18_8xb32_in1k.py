"""ECA-ResNet-18 (arXiv:1910.03151) on ImageNet-1k from scratch, 100 epochs.

Published: top-1 70.92; 11.69 M parameters (the authors' README, whose 11.15 M and 1.70 G are of 2^20 and 2^30).
"""

_base_ = "eca-resnet50_8xb32_in1k.py"
work_dir = "work_dirs/resnet/eca-resnet18_in1k"

model = dict(backbone=dict(arch="eca_resnet18"), head=dict(in_channels=512))
