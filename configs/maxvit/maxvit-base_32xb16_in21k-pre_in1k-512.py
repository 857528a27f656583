"""MaxViT-B (arXiv:2204.01697) on ImageNet-1k at 512, from ImageNet-21k's weights, 30 epochs.

Published: top-1 88.38; 119 M parameters, 138.3 G multiply-adds (the paper, table 2).

Counted here: 136 G multiply-adds; the paper's framework gathers position biases by products with one-hot matrices,
and counts them.
"""

_base_ = "maxvit-tiny_32xb16_in1k-512.py"
work_dir = "work_dirs/maxvit/maxvit-base_in21k-pre_in1k-512"

model = dict(
    backbone=dict(arch="base_tf_512", drop_path_rate=0.4, init_cfg=dict(checkpoint="timm://maxvit_base_tf_224.in21k")),
    head=dict(in_channels=768),
)
