"""FocalNet-S (SRF, arXiv:2203.11926) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 83.4; 49.9 M parameters, 8.6 G multiply-adds (the authors' README).
"""

_base_ = "focalnet-tiny-srf_8xb128_in1k.py"
work_dir = "work_dirs/focalnet/focalnet-small-srf_in1k"

model = dict(backbone=dict(arch="small_srf", drop_path_rate=0.3))
