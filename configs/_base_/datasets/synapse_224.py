"""Synapse's abdominal scans, slices with eight organs, as `bestiary data prepare synapse SRC data/synapse` writes them.

Slices of 224 x 224 turned by quarters and mirrored, or turned by up to 20 degrees (TransUNet's augmentation,
arXiv:2102.04306). mDice is of all slices together; papers give the mean over twelve scans.
"""

_base_ = "isic2018.py"

data_root = "data/synapse/"
size = (224, 224)

turns = [[dict(type="RandomRotate", prob=1.0, degree=(angle, angle))] for angle in (0.0, 90.0, 180.0, 270.0)]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(
        type="RandomChoice",
        transforms=[
            [
                dict(type="RandomChoice", transforms=turns),
                dict(type="RandomFlip", prob=1.0, direction=["horizontal", "vertical"]),
            ],
            [dict(type="RandomRotate", prob=1.0, degree=20.0, seg_pad_val=0)],
            [],
        ],
        prob=[0.5, 0.25, 0.25],
    ),
    dict(type="Resize", scale=size, keep_ratio=False),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=size, keep_ratio=False),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
label_images = dict(_delete_=True, type="SynapseDataset", data_root=data_root, img_suffix=".png")
train_dataloader = dict(
    dataset=dict(
        **label_images,
        data_prefix=dict(img_path="img_dir/train", seg_map_path="ann_dir/train"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    dataset=dict(
        **label_images,
        data_prefix=dict(img_path="img_dir/val", seg_map_path="ann_dir/val"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
