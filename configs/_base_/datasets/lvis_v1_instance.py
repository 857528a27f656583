"""LVIS v1 (arXiv:1908.03195) beside COCO's pictures in data/lvis_v1: 1,203 classes, rare ones repeated.

mmdet reads it by the `lvis` package: pip install 'bestiary[lvis]'. The scores are faster-coco-eval's.
"""

_base_ = "mmdet::_base_/datasets/lvis_v1_instance.py"

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="RandomChoiceResize", scales=[(1333, side) for side in range(640, 801, 32)], keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="bestiary.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(1333, 800), keep_ratio=True),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="bestiary.PackDetInputs", meta_keys=("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")),
]
train_dataloader = dict(dataset=dict(dataset=dict(pipeline=train_pipeline)))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(
    _delete_=True,
    type="bestiary.LvisMetric",
    ann_file="data/lvis_v1/annotations/lvis_v1_val.json",
    metric=["bbox", "segm"],
)
test_evaluator = val_evaluator
