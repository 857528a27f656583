"""UPerNet with BiFormer-B (arXiv:2303.08810) on ADE20K, 160,000 iterations.

Published: mIoU 51.0, 51.7 of several scales (the authors' README).
"""

_base_ = "upernet_biformer-small_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/biformer/upernet_biformer-base"

model = dict(
    backbone=dict(arch="base", drop_path_rate=0.4, init_cfg=dict(checkpoint="checkpoints/biformer_base_best.pth")),
    decode_head=dict(in_channels=[96, 192, 384, 768]),
    auxiliary_head=dict(in_channels=384),
)
