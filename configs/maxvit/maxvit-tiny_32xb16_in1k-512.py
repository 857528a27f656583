"""MaxViT-T (arXiv:2204.01697) on ImageNet-1k, brought from 224 to 512 in 30 epochs.

Published: top-1 85.72; 31 M parameters, 33.7 G multiply-adds (the paper, table 2).

Counted here: 32.9 G multiply-adds; the paper's framework gathers position biases by products with one-hot matrices,
and counts them.
"""

_base_ = "maxvit-tiny_32xb16_in1k-384.py"
work_dir = "work_dirs/maxvit/maxvit-tiny_in1k-512"

model = dict(backbone=dict(arch="tiny_tf_512"))
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(input_size=512)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(input_size=512)
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
