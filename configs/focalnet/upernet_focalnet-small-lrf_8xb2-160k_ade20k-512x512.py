"""UPerNet with FocalNet-S (LRF, arXiv:2203.11926) on ADE20K, 160,000 iterations.

Published: mIoU 49.1, 50.1 of several scales; 84 M parameters, 1044 G multiply-adds at 2048 x 512 (the authors' README).
"""

_base_ = "upernet_focalnet-tiny-srf_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/focalnet/upernet_focalnet-small-lrf"

model = dict(
    backbone=dict(arch="small_lrf", init_cfg=dict(checkpoint="timm://focalnet_small_lrf.ms_in1k")),
)
