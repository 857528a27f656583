"""UPerNet with FocalNet-B (LRF, arXiv:2203.11926) on ADE20K, 160,000 iterations.

Published: mIoU 50.5, 51.4 of several scales; 126 M parameters, 1192 G multiply-adds at 2048 x 512 (authors' README).
"""

_base_ = "upernet_focalnet-tiny-srf_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/focalnet/upernet_focalnet-base-lrf"

model = dict(
    backbone=dict(arch="base_lrf", init_cfg=dict(checkpoint="timm://focalnet_base_lrf.ms_in1k")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
