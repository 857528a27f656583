"""ECA-ResNet-50 (arXiv:1910.03151) on ImageNet-1k from scratch, 100 epochs.

Published: top-1 77.42; 25.56 M parameters (the authors' README, whose 24.37 M and 3.86 G are of 2^20 and 2^30).
"""

_base_ = [
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_100e_sgd.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/resnet/eca-resnet50_in1k"

model = dict(
    type="ImageClassifier",
    data_preprocessor=dict(type="ImgDataPreprocessor"),  # the pipeline normalises
    backbone=dict(type="ResNet", arch="eca_resnet50", out_indices=(3,)),
    head=dict(type="LinearHead", in_channels=2048, num_classes=1000),
)
# Crops and flips alone, as in ResNet's time.
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(interpolation="bilinear", color_jitter=0.0, auto_augment=None, re_prob=0.0)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(interpolation="bilinear", crop_pct=0.875)
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
