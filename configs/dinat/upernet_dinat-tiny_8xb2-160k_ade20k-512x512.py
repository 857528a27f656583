"""UPerNet with DiNAT-Tiny (arXiv:2209.15001) on ADE20K, 160,000 iterations.

Published: mIoU 47.8, 48.8 of several scales; 58 M parameters (the authors' README).
"""

_base_ = "upernet_dinat-mini_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/dinat/upernet_dinat-tiny"

model = dict(
    backbone=dict(arch="tiny", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_tiny_in1k_224.pth")),
)
