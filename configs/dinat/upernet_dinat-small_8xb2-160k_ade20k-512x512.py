"""UPerNet with DiNAT-Small (arXiv:2209.15001) on ADE20K, 160,000 iterations.

Published: mIoU 48.9, 49.9 of several scales; 82 M parameters (the authors' README).
"""

_base_ = "upernet_dinat-mini_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/dinat/upernet_dinat-small"

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.5, init_cfg=dict(checkpoint="checkpoints/dinat_small_in1k_224.pth")),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
