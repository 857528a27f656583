"""MaxViT-XL (arXiv:2204.01697) on ImageNet-1k at 512, from ImageNet-21k's weights, 30 epochs.

Published: top-1 88.70; 475 M parameters, 535.2 G multiply-adds (the paper, table 2).
"""

_base_ = "maxvit-tiny_32xb16_in1k-512.py"
work_dir = "work_dirs/maxvit/maxvit-xlarge_in21k-pre_in1k-512"

model = dict(
    backbone=dict(
        arch="xlarge_tf_512", drop_path_rate=0.9, init_cfg=dict(checkpoint="timm://maxvit_xlarge_tf_224.in21k")
    ),
    head=dict(in_channels=1536),
)
