"""MaxViT-L (arXiv:2204.01697) on ImageNet-1k at 384, from ImageNet-21k's weights, 30 epochs.

Published: top-1 88.32; 212 M parameters, 128.7 G multiply-adds (the paper, table 2).

Counted here: 132 G multiply-adds; the paper's framework gathers position biases by products with one-hot matrices,
and counts them.
"""

_base_ = "maxvit-tiny_32xb16_in1k-384.py"
work_dir = "work_dirs/maxvit/maxvit-large_in21k-pre_in1k-384"

model = dict(
    backbone=dict(
        arch="large_tf_384", drop_path_rate=0.5, init_cfg=dict(checkpoint="timm://maxvit_large_tf_224.in21k")
    ),
    head=dict(in_channels=1024),
)
