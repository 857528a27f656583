"""RetinaNet on PoolFormer-S12 for boxes of yours, in COCO's format.

Run: bestiary train mydata/retinanet_poolformer --data ANNOTATIONS.json PICTURES

Classes, head and anchors are set by what the file says. Nobody has published a score.
"""

_base_ = "mask-rcnn_poolformer.py"
train_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="bestiary.LoadAnnotations", with_bbox=True),
    dict(type="Resize", scale=(_base_.side, _base_.side), keep_ratio=True),
    dict(type="RandomFlip", prob=0.5),
    dict(type="bestiary.PackDetInputs"),
]
test_pipeline = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(_base_.side, _base_.side), keep_ratio=True),
    dict(type="bestiary.LoadAnnotations", with_bbox=True),
    dict(type="bestiary.PackDetInputs", meta_keys=_base_.META),
]
train_dataloader = dict(dataset=dict(pipeline=train_pipeline))
val_dataloader = dict(dataset=dict(pipeline=test_pipeline))
test_dataloader = val_dataloader
val_evaluator = dict(metric="bbox")
test_evaluator = val_evaluator
model = dict(
    _delete_=True,
    type="RetinaNet",
    data_preprocessor=_base_.model.data_preprocessor,
    backbone=_base_.backbone,
    neck=dict(
        type="FPN",
        in_channels=[64, 128, 320, 512],
        out_channels=256,
        start_level=1,
        add_extra_convs="on_input",
        num_outs=5,
    ),
    bbox_head=dict(
        type="RetinaHead",
        num_classes=80,
        in_channels=256,
        stacked_convs=4,
        feat_channels=256,
        anchor_generator=dict(
            type="AnchorGenerator",
            octave_base_scale=4,
            scales_per_octave=3,
            ratios=[0.5, 1.0, 2.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type="DeltaXYWHBBoxCoder", target_means=[0.0, 0.0, 0.0, 0.0], target_stds=[1.0, 1.0, 1.0, 1.0]),
        loss_cls=dict(type="FocalLoss", use_sigmoid=True, gamma=2.0, alpha=0.25, loss_weight=1.0),
        loss_bbox=dict(type="L1Loss", loss_weight=1.0),
    ),
    train_cfg=dict(
        assigner=dict(type="MaxIoUAssigner", pos_iou_thr=0.5, neg_iou_thr=0.4, min_pos_iou=0, ignore_iof_thr=-1),
        sampler=dict(type="PseudoSampler"),
        allowed_border=-1,
        pos_weight=-1,
        debug=False,
    ),
    test_cfg=dict(
        nms_pre=1000, min_bbox_size=0, score_thr=0.05, nms=dict(type="nms", iou_threshold=0.5), max_per_img=100
    ),
)
