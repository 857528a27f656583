"""UPerNet with FocalNet-S (SRF, arXiv:2203.11926) on ADE20K, 160,000 iterations.

Published: mIoU 49.3, 50.1 of several scales; 83 M parameters, 1035 G multiply-adds at 2048 x 512 (the authors' README).
"""

_base_ = "upernet_focalnet-tiny-srf_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/focalnet/upernet_focalnet-small-srf"

model = dict(
    backbone=dict(arch="small_srf", init_cfg=dict(checkpoint="timm://focalnet_small_srf.ms_in1k")),
)
