"""SHViT-S4 (arXiv:2401.16456) on ImageNet-1k from scratch at 256, 300 epochs.

Published: top-1 79.4; 16.5 M parameters, 0.986 G multiply-adds (the paper).
"""

_base_ = "shvit-s1_8xb256_in1k.py"
work_dir = "work_dirs/shvit/shvit-s4_in1k"

model = dict(backbone=dict(arch="s4"), head=dict(in_channels=448))
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(input_size=256)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(input_size=256)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(weight_decay=0.03))
