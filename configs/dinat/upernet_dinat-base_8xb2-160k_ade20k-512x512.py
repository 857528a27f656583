"""UPerNet with DiNAT-Base (arXiv:2209.15001) on ADE20K, 160,000 iterations.

Published: mIoU 49.6, 50.4 of several scales; 123 M parameters (the authors' README).
"""

_base_ = "upernet_dinat-mini_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/dinat/upernet_dinat-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/dinat_base_in1k_224.pth")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
