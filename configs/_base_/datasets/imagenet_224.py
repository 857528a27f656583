"""ImageNet-1k in class folders, pictures of 224 x 224, with DeiT's augmentation (arXiv:2012.12877)."""

dataset_type = "ImageFolder"
data_root = "data/imagenet/"

train_pipeline = [
    dict(type="LoadPicture"),
    dict(
        type="TimmTransform",
        input_size=224,
        is_training=True,
        normalize=True,
        interpolation="bicubic",
        color_jitter=0.4,
        auto_augment="rand-m9-mstd0.5-inc1",
        re_prob=0.25,
        re_mode="pixel",
    ),
    dict(type="PackImageInputs"),
]
test_pipeline = [
    dict(type="LoadPicture"),
    dict(type="TimmTransform", input_size=224, normalize=True, interpolation="bicubic", crop_pct=0.9),
    dict(type="PackImageInputs"),
]
train_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, data_prefix="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, data_prefix="val", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="TopkAccuracy", topk=(1, 5))
test_evaluator = val_evaluator
