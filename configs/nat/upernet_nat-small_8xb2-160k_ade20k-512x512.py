"""UPerNet with NAT-Small (arXiv:2204.07143) on ADE20K, 160,000 iterations.

Published: mIoU 48.0, 49.5 of several scales; 82 M parameters (the authors' README).
"""

_base_ = "upernet_nat-mini_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/nat/upernet_nat-small"

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/nat_small_1k.pth")),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
