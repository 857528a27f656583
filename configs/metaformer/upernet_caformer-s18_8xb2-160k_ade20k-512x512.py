"""UPerNet with CAFormer-S18 (arXiv:2210.13452) on ADE20K, 160,000 iterations.

Published: mIoU 48.9; 54 M parameters, 1024 G multiply-adds at 2048 x 512 (PolyNeXt's README, not the authors').
"""

_base_ = "upernet_convformer-s18_8xb2-160k_ade20k-512x512.py"
work_dir = "work_dirs/metaformer/upernet_caformer-s18"

model = dict(backbone=dict(type="bestiary.CAFormer", init_cfg=dict(checkpoint="timm://caformer_s18.sail_in1k")))
