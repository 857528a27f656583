"""UPerNet with NAT-Base (arXiv:2204.07143) on ADE20K, 160,000 iterations.

Published: mIoU 48.5, 49.7 of several scales; 123 M parameters (the authors' README).
"""

_base_ = "upernet_nat-mini_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/nat/upernet_nat-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/nat_base_1k.pth")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
