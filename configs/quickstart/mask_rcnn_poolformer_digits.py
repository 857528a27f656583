"""Mask R-CNN on a small PoolFormer and the bundled digits. Run: bestiary train THIS_FILE

Pictures of 128 x 128 need small anchors, few proposals and thin heads; the rest is mmdet's Mask R-CNN.
"""

_base_ = [
    "mmdet::_base_/models/mask-rcnn_r50_fpn.py",
    "../_base_/models/poolformer_digits.py",
    "../_base_/datasets/digits_instance.py",
    "../_base_/runtime.py",
]
custom_imports = dict(imports=["bestiary", "bestiary.inputs.detection_transforms"])
default_scope = "mmdet"
work_dir = "work_dirs/quickstart/detector"
visualizer = dict(type="DetLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")

model = dict(
    backbone=dict(_delete_=True, **_base_.digits_backbone, init_cfg=_base_.digits_weights),
    neck=dict(in_channels=_base_.digits_dims, out_channels=48, num_outs=4),
    rpn_head=dict(
        in_channels=48,
        feat_channels=48,
        anchor_generator=dict(scales=[6], strides=[4, 8, 16, 32]),
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=48, roi_layer=dict(sampling_ratio=2)),
        # One regressor for all classes: ten times the examples for each of its weights.
        bbox_head=dict(in_channels=48, fc_out_channels=128, num_classes=10, reg_class_agnostic=True),
        mask_roi_extractor=dict(out_channels=48, roi_layer=dict(sampling_ratio=2)),
        mask_head=dict(num_convs=2, in_channels=48, conv_out_channels=48, num_classes=10),
    ),
    train_cfg=dict(
        rpn=dict(sampler=dict(num=64)),
        rpn_proposal=dict(nms_pre=200, max_per_img=64),
        rcnn=dict(sampler=dict(num=32)),
    ),
    test_cfg=dict(rpn=dict(nms_pre=200, max_per_img=64), rcnn=dict(max_per_img=20)),
)

max_epochs = 6
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="bestiary.TimmOptimizer", name="nadamuon", ns_dtype="float32", lr=0.01, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min=0, convert_to_iter_based=True),
]
