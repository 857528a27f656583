"""PoolFormer-M48 (arXiv:2111.11418) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.5; 73 M parameters, 11.6 G multiply-adds (the authors' README).
"""

_base_ = "poolformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/poolformer/poolformer-m48_in1k"

model = dict(backbone=dict(arch="m48", drop_path_rate=0.4), head=dict(in_channels=768))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(crop_pct=0.95)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
