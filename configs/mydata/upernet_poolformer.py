"""UPerNet on PoolFormer-S12 for regions of yours: a folder of pictures, and one of label images of the same names.

Run: bestiary train mydata/upernet_poolformer --data PICTURES LABELS

A pixel of a label image is its class, 0 the first; 255 is ignored. There are as many classes as the largest label
says; `--cfg-options class_names=NAMES.txt` names them, one a line. Nobody has published a score.
"""

_base_ = ["mmseg::_base_/models/upernet_r50.py", "../_base_/mydata_runtime.py"]
default_scope = "mmseg"
pictures = labels = val_pictures = val_labels = class_names = None
side = 512  # of the pictures, the longer one

norm_cfg = dict(type="BN", requires_grad=True)
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="LoadAnnotations"),
    dict(type="Resize", scale=(side, side), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="PackSegInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(side, side), keep_ratio=True),
    dict(type="LoadAnnotations"),
    dict(type="PackSegInputs"),
]
train_dataloader = dict(
    **_base_.LOADER,
    batch_size=4,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="BaseSegDataset", pipeline=train_pipeline),
)
val_dataloader = dict(
    **_base_.LOADER,
    batch_size=1,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="BaseSegDataset", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="bestiary.StreamingIoU", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(side, side)),
    backbone=dict(_delete_=True, **_base_.backbone),
    decode_head=dict(in_channels=[64, 128, 320, 512], channels=256, num_classes=150, norm_cfg=norm_cfg),
    auxiliary_head=dict(in_channels=320, num_classes=150, norm_cfg=norm_cfg),
)
default_hooks = dict(checkpoint=dict(save_best="mIoU"))
