"""UPerNet with DaViT-B (arXiv:2204.03645) on ADE20K, 160,000 iterations.

Published: mIoU 49.4; 121 M parameters, 1175 G multiply-adds at 2048 x 512 (the authors' README).
"""

_base_ = "upernet_davit-tiny_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/davit/upernet_davit-base"

model = dict(
    backbone=dict(arch="base", init_cfg=dict(checkpoint="timm://davit_base.msft_in1k")),
    decode_head=dict(in_channels=[128, 256, 512, 1024]),
    auxiliary_head=dict(in_channels=512),
)
