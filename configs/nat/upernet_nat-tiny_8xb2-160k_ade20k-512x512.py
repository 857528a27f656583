"""UPerNet with NAT-Tiny (arXiv:2204.07143) on ADE20K, 160,000 iterations.

Published: mIoU 47.1, 48.4 of several scales; 58 M parameters (the authors' README).
"""

_base_ = "upernet_nat-mini_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/nat/upernet_nat-tiny"

model = dict(
    backbone=dict(arch="tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/nat_tiny_1k.pth")),
)
