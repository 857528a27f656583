"""The bundled digits as COCO instances: 1,000 training and 200 validation pictures of 128 x 128, 10 classes."""

_base_ = "digits_classes.py"
dataset_type = "CocoDataset"
data_root = "data/digits/coco/"
metainfo = dict(classes=_base_.digits_classes, palette=_base_.digits_palette)

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    # No flips: a mirrored digit is another sign.
    dict(type="bestiary.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(128, 128), keep_ratio=True),  # notes the scale factor that mask heads ask for
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="bestiary.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_train2017.json",
        data_prefix=dict(img="train2017/"),
        filter_cfg=dict(filter_empty_gt=True),
        pipeline=train_pipeline,
    ),
)
val_dataloader = dict(
    batch_size=16,
    num_workers=2,
    persistent_workers=True,
    drop_last=False,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        metainfo=metainfo,
        ann_file="annotations/instances_val2017.json",
        data_prefix=dict(img="val2017/"),
        test_mode=True,
        pipeline=test_pipeline,
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(
    type="CocoMetric", ann_file=data_root + "annotations/instances_val2017.json", metric=["bbox", "segm"]
)
test_evaluator = val_evaluator
