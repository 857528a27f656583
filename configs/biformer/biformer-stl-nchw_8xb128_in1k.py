"""BiFormer-STL, the form of the later code, (arXiv:2303.08810) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.7; 28.4 M parameters, 4.6 G multiply-adds (the authors' README).
"""

_base_ = "biformer-tiny_8xb128_in1k.py"
work_dir = "work_dirs/biformer/biformer-stl_nchw_in1k"

model = dict(backbone=dict(arch="stl_nchw", drop_path_rate=0.2), head=dict(in_channels=768))
