"""SHViT-S3 (arXiv:2401.16456) on ImageNet-1k from scratch at 224, 300 epochs.

Published: top-1 77.4; 14.2 M parameters, 0.601 G multiply-adds (the paper).
"""

_base_ = "shvit-s1_8xb256_in1k.py"
work_dir = "work_dirs/shvit/shvit-s3_in1k"

model = dict(backbone=dict(arch="s3"), head=dict(in_channels=448))
optim_wrapper = dict(optimizer=dict(weight_decay=0.035))
