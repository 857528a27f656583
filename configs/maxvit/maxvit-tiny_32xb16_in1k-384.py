"""MaxViT-T (arXiv:2204.01697) on ImageNet-1k, brought from 224 to 384 in 30 epochs.

Published: top-1 85.24; 31 M parameters, 17.7 G multiply-adds (the paper, table 2).

Counted here: 17.3 G multiply-adds; the paper's framework gathers position biases by products with one-hot matrices,
and counts them.
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_finetune_30e.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/maxvit/maxvit-tiny_in1k-384"

model = dict(
    backbone=dict(
        type="MaxViT",
        arch="tiny_tf_384",
        drop_path_rate=0.2,
        out_indices=(3,),
        init_cfg=dict(type="Pretrained", checkpoint="timm://maxvit_tiny_tf_224.in1k"),
    ),
    head=dict(type="NormMlpHead", in_channels=512, num_classes=1000),
    mixup=None,
)
# As the released weights of this size: values of -1..1, the whole picture squeezed into the square.
half = dict(input_size=384, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(**half, auto_augment="rand-m15-n2", re_prob=0.0, color_jitter=0.0)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(**half, crop_pct=1.0, crop_mode="squash")
train_dataloader = dict(batch_size=16, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
