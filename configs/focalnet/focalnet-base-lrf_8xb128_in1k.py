"""FocalNet-B (LRF, arXiv:2203.11926) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 83.9; 88.7 M parameters, 15.4 G multiply-adds (the authors' README).
"""

_base_ = "focalnet-tiny-srf_8xb128_in1k.py"
work_dir = "work_dirs/focalnet/focalnet-base-lrf_in1k"

model = dict(backbone=dict(arch="base_lrf", drop_path_rate=0.5), head=dict(in_channels=1024))
