"""UPerNet with DaViT-S (arXiv:2204.03645) on ADE20K, 160,000 iterations.

Published: mIoU 48.8; 81 M parameters, 1030 G multiply-adds at 2048 x 512 (the authors' README).
"""

_base_ = "upernet_davit-tiny_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/davit/upernet_davit-small"

model = dict(
    backbone=dict(arch="small", init_cfg=dict(checkpoint="timm://davit_small.msft_in1k")),
)
