"""The bundled digits one by one, in ImageNet's layout: 5,752 training pictures of 48 x 48 and 359 held-out ones."""

dataset_type = "ImageFolder"
data_root = "data/digits/imagenet/"

train_pipeline = [
    dict(type="LoadPicture"),
    # No flips: a mirrored digit is another sign.
    dict(
        type="TorchvisionTransform",
        transforms=[
            dict(
                type="RandomAffine",
                degrees=5,
                translate=[0.06, 0.06],
                scale=[0.9, 1.1],
                shear=5,
                interpolation="bilinear",
            )
        ],
    ),
    dict(type="PackImageInputs"),
]
test_pipeline = [dict(type="LoadPicture"), dict(type="PackImageInputs")]
train_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type=dataset_type, data_root=data_root, data_prefix="train", pipeline=train_pipeline),
)
val_dataloader = dict(
    batch_size=64,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type=dataset_type, data_root=data_root, data_prefix="val", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="TopkAccuracy", topk=(1, 5))
test_evaluator = val_evaluator
