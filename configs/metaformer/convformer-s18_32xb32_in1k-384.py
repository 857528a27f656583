"""ConvFormer-S18 (arXiv:2210.13452) on ImageNet-1k, brought from 224 to 384 in 30 epochs.

Published: top-1 84.4; 26.8 M parameters, 11.6 G multiply-adds (the authors' README).
"""

_base_ = [
    "../_base_/models/classifier.py",
    "../_base_/datasets/imagenet_224.py",
    "../_base_/schedules/imagenet_finetune_30e.py",
    "../_base_/classifier_runtime.py",
]
work_dir = "work_dirs/metaformer/convformer-s18_in1k-384"

model = dict(
    backbone=dict(
        type="ConvFormer",
        arch="s18",
        drop_path_rate=0.3,
        out_indices=(3,),
        out_norm=False,
        init_cfg=dict(type="Pretrained", checkpoint="timm://convformer_s18.sail_in1k"),
    ),
    head=dict(type="MlpHead", in_channels=512, num_classes=1000, dropout=0.4),
    mixup=None,
)
train_pipeline = _base_.train_pipeline
train_pipeline[1].update(input_size=384)
test_pipeline = _base_.test_pipeline
test_pipeline[1].update(input_size=384, crop_pct=1.0)
train_dataloader = dict(batch_size=32, dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
optim_wrapper = dict(optimizer=dict(weight_decay=0.05))
auto_scale_lr = dict(base_batch_size=1024)
