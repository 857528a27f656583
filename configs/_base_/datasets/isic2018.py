"""ISIC 2018, task 1, as `bestiary data prepare isic2018 SRC data/isic2018` writes it: skin lesions, 256 x 256.

Pictures are flipped both ways and turned by any angle, each in every second case (the authors turn all pictures of a
run by one angle). Scores are of the pictures' own sizes; the authors' of 256 x 256.
"""

data_root = "data/isic2018/"
metainfo = dict(classes=["skin", "lesion"], palette=[[40, 40, 40], [230, 25, 75]])
size = (256, 256)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="bestiary.MinMaxNormalize"),
    dict(type="RandomFlip", prob=0.5, direction="horizontal"),
    dict(type="RandomFlip", prob=0.5, direction="vertical"),
    dict(type="RandomRotate", prob=0.5, degree=(0.0, 360.0), pad_val=0, seg_pad_val=0),
    dict(type="Resize", scale=size, keep_ratio=False),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.MinMaxNormalize"),
    dict(type="Resize", scale=size, keep_ratio=False),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
loader = dict(num_workers=4, persistent_workers=True)
label_images = dict(
    type="BaseSegDataset", data_root=data_root, metainfo=metainfo, img_suffix=".jpg", seg_map_suffix=".png"
)
train_dataloader = dict(
    **loader,
    batch_size=32,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **label_images,
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    **loader,
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **label_images,
        data_prefix=dict(img_path="images/validation", seg_map_path="annotations/validation"),
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU", "mDice"])
test_evaluator = val_evaluator
