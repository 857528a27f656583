"""FocalNet-S (LRF, arXiv:2203.11926) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 83.5; 50.3 M parameters, 8.7 G multiply-adds (the authors' README).
"""

_base_ = "focalnet-tiny-srf_8xb128_in1k.py"
work_dir = "work_dirs/focalnet/focalnet-small-lrf_in1k"

model = dict(backbone=dict(arch="small_lrf", drop_path_rate=0.3))
