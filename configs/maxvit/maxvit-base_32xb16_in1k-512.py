"""MaxViT-B (arXiv:2204.01697) on ImageNet-1k, brought from 224 to 512 in 30 epochs.

Published: top-1 86.66; 120 M parameters, 138.5 G multiply-adds (the paper, table 2).

Counted here: 136 G multiply-adds; the paper's framework gathers position biases by products with one-hot matrices,
and counts them.
"""

_base_ = "maxvit-base_32xb16_in1k-384.py"
work_dir = "work_dirs/maxvit/maxvit-base_in1k-512"

model = dict(backbone=dict(arch="base_tf_512"))
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(input_size=512)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(input_size=512)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
