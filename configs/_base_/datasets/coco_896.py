"""COCO's boxes and masks in squares of 896 x 896: scaled by 0.1 to 2 and cropped, or scaled to fit, and padded."""

_base_ = "coco_instance.py"

side = (896, 896)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomResize", scale=side, ratio_range=(0.1, 2.0), keep_ratio=True),
    dict(type="RandomCrop", crop_type="absolute", crop_size=side, recompute_bbox=True, allow_negative_crop=True),
    dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2)),
    dict(type="RandomFlip", prob=0.5),
    dict(type="Pad", size=side),
    dict(type="bestiary.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=side, keep_ratio=True),
    dict(type="Pad", size=side),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="bestiary.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
