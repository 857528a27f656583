"""Isotropic FocalNet-T (arXiv:2203.11926) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 74.1; 5.9 M parameters, 1.1 G multiply-adds (the paper).

Its stochastic depth is not in the sources at hand; a ViT's of this size stands here.
"""

_base_ = "focalnet-tiny-srf_8xb128_in1k.py"
work_dir = "work_dirs/focalnet/focalnet-tiny-iso_in1k"

model = dict(backbone=dict(arch="tiny_iso", drop_path_rate=0.0, out_indices=(0,)), head=dict(in_channels=192))
