"""FocalNet-T (LRF, arXiv:2203.11926) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.3; 28.6 M parameters, 4.5 G multiply-adds (the authors' README).
"""

_base_ = "focalnet-tiny-srf_8xb128_in1k.py"
work_dir = "work_dirs/focalnet/focalnet-tiny-lrf_in1k"

model = dict(backbone=dict(arch="tiny_lrf", drop_path_rate=0.2))
