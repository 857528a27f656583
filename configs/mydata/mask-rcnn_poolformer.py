"""Mask R-CNN on PoolFormer-S12 for objects of yours, in COCO's format.

Run: bestiary train mydata/mask-rcnn_poolformer --data ANNOTATIONS.json PICTURES

Classes, heads and anchors are set by what the file says; without masks in it, the mask head is left out. Nobody has
published a score. No flips if left and right matter: take RandomFlip out.
"""

_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "../_base_/mydata_runtime.py"]
custom_imports = dict(imports=["bestiary", "bestiary.inputs.detection_transforms"])
default_scope = "mmdet"
annotations = pictures = val_annotations = val_pictures = None
side = 640  # of the pictures, the longer one
# With the objects of the file, which the metric compares with: the file may hold pictures that are learnt from.
META = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor", "instances")

train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="Resize", scale=(side, side), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="bestiary.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(side, side), keep_ratio=True),
    dict(type="bestiary.LoadAnnotations", with_bbox=True, with_mask=True),
    dict(type="bestiary.PackDetInputs", meta_keys=META),
]
train_dataloader = dict(
    **_base_.LOADER,
    batch_size=4,
    sampler=dict(type="DefaultSampler", shuffle=True),
    batch_sampler=dict(type="AspectRatioBatchSampler"),
    dataset=dict(type="CocoDataset", pipeline=train_pipeline),
)
val_dataloader = dict(
    **_base_.LOADER,
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="CocoDataset", test_mode=True, pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="bestiary.CocoMetric", metric=["bbox", "segm"])
test_evaluator = val_evaluator
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
model = dict(
    backbone=dict(_delete_=True, **_base_.backbone),
    neck=dict(in_channels=[64, 128, 320, 512]),
)
default_hooks = dict(checkpoint=dict(save_best="coco/bbox_mAP"))
