"""COCO's boxes and masks with DETR's augmentation (arXiv:2005.12872): sides of 480 to 800, every second of a crop."""

_base_ = "coco_instance.py"

sides = [(side, 1333) for side in range(480, 801, 32)]
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomFlip", prob=0.5),
    dict(
        type="RandomChoice",
        transforms=[
            [dict(type="RandomChoiceResize", scales=sides, keep_ratio=True)],
            [
                dict(type="RandomChoiceResize", scales=[(400, 1333), (500, 1333), (600, 1333)], keep_ratio=True),
                dict(type="RandomCrop", crop_type="absolute_range", crop_size=(384, 600), allow_negative_crop=True),
                dict(type="RandomChoiceResize", scales=sides, keep_ratio=True),
            ],
        ],
    ),
    dict(type="bestiary.PackDetInputs"),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
