"""MaxViT-XL (arXiv:2204.01697) on ImageNet-1k at 384, from ImageNet-21k's weights, 30 epochs.

Published: top-1 88.51; 475 M parameters, 293.7 G multiply-adds (the paper, table 2).
"""

_base_ = "maxvit-tiny_32xb16_in1k-384.py"
work_dir = "work_dirs/maxvit/maxvit-xlarge_in21k-pre_in1k-384"

model = dict(
    backbone=dict(
        arch="xlarge_tf_384", drop_path_rate=0.9, init_cfg=dict(checkpoint="timm://maxvit_xlarge_tf_224.in21k")
    ),
    head=dict(in_channels=1536),
)
