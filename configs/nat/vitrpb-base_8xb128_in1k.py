"""ViT with a relative position bias, Base (arXiv:2209.15001) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.5; 87 M parameters (the authors' README).
"""

_base_ = "nat-mini_8xb128_in1k.py"
work_dir = "work_dirs/nat/vitrpb-base_in1k"

model = dict(
    backbone=dict(type="ViTRPB", arch="base", drop_path_rate=0.4, out_indices=(0,)), head=dict(in_channels=768)
)
