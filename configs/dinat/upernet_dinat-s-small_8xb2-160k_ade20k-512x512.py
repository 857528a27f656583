"""UPerNet with DiNAT_s-Small (arXiv:2209.15001) on ADE20K, 160,000 iterations.

Published: mIoU 48.6, 49.9 of several scales (the authors' README).
"""

_base_ = "upernet_dinat-s-tiny_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/dinat/upernet_dinat-s-small"

model = dict(
    backbone=dict(arch="small", drop_path_rate=0.3, init_cfg=dict(checkpoint="checkpoints/dinat_s_small_in1k_224.pth")),
)
