"""MaxViT-L (arXiv:2204.01697) on ImageNet-1k from scratch at 224, 300 epochs.

Published: top-1 85.17; 212 M parameters, 43.9 G multiply-adds (the paper, table 2).
"""

_base_ = "maxvit-tiny_32xb128_in1k.py"
work_dir = "work_dirs/maxvit/maxvit-large_in1k"

model = dict(backbone=dict(arch="large_tf_224", drop_path_rate=0.6), head=dict(in_channels=1024))
