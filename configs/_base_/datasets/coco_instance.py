"""COCO's boxes and masks as mmdet has them, (1333, 800) and flips, by the quick steps of `detection_transforms`."""

_base_ = "mmdet::_base_/datasets/coco_instance.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="bestiary.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="bestiary.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
