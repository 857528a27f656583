"""UPerNet with FocalNet-T (LRF, arXiv:2203.11926) on ADE20K, 160,000 iterations.

Published: mIoU 46.8, 47.8 of several scales; 61 M parameters, 949 G multiply-adds at 2048 x 512 (the authors' README).
"""

_base_ = "upernet_focalnet-tiny-srf_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/focalnet/upernet_focalnet-tiny-lrf"

model = dict(
    backbone=dict(arch="tiny_lrf", init_cfg=dict(checkpoint="timm://focalnet_tiny_lrf.ms_in1k")),
)
