"""UPerNet with DiNAT_s-Base (arXiv:2209.15001) on ADE20K, 160,000 iterations.

Published: mIoU 49.4, 50.2 of several scales (the authors' README).
"""

_base_ = "upernet_dinat-s-tiny_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/dinat/upernet_dinat-s-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_s_base_in1k_224.pth")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
