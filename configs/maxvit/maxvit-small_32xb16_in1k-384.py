"""MaxViT-S (arXiv:2204.01697) on ImageNet-1k, brought from 224 to 384 in 30 epochs.

Published: top-1 85.74; 69 M parameters, 36.1 G multiply-adds (the paper, table 2).

Counted here: 35.5 G multiply-adds; the paper's framework gathers position biases by products with one-hot matrices,
and counts them.
"""

_base_ = "maxvit-tiny_32xb16_in1k-384.py"
work_dir = "work_dirs/maxvit/maxvit-small_in1k-384"

model = dict(
    backbone=dict(arch="small_tf_384", drop_path_rate=0.3, init_cfg=dict(checkpoint="timm://maxvit_small_tf_224.in1k")),
    head=dict(in_channels=768),
)
