"""PoolFormer-M36 (arXiv:2111.11418) on ImageNet-1k from scratch, 300 epochs.

Published: top-1 82.1; 56 M parameters, 8.8 G multiply-adds (the authors' README).
"""

_base_ = "poolformer-s12_32xb128_in1k.py"
work_dir = "work_dirs/poolformer/poolformer-m36_in1k"

model = dict(backbone=dict(arch="m36", drop_path_rate=0.3), head=dict(in_channels=768))
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(crop_pct=0.95)
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
