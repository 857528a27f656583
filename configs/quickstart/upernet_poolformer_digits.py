"""UPerNet on a small PoolFormer and the bundled digits. Run: bestiary train THIS_FILE

Nine pixels of ten are background, and plain cross-entropy is content with that answer for a long time: the background
weighs less, and a Dice term (arXiv:1606.04797) asks for overlap.
"""

_base_ = [
    "mmseg::_base_/models/upernet_r50.py",
    "../_base_/models/poolformer_digits.py",
    "../_base_/datasets/digits_segmentation.py",
    "../_base_/runtime.py",
]
default_scope = "mmseg"
work_dir = "work_dirs/quickstart/segmentor"
visualizer = dict(type="SegLocalVisualizer", vis_backends=[dict(type="LocalVisBackend")], name="visualizer")

norm_cfg = dict(type="BN", requires_grad=True)
losses = [
    dict(type="CrossEntropyLoss", class_weight=[0.3] + [1.0] * 10, avg_non_ignore=True, loss_weight=1.0),
    dict(type="DiceLoss", loss_weight=1.0),
]
model = dict(
    pretrained=None,
    data_preprocessor=dict(size=(128, 128)),
    backbone=dict(_delete_=True, **_base_.digits_backbone, init_cfg=_base_.digits_weights),
    decode_head=dict(
        in_channels=_base_.digits_dims,
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=losses,
    ),
    auxiliary_head=dict(
        in_channels=128,
        channels=64,
        num_classes=11,
        norm_cfg=norm_cfg,
        loss_decode=dict(avg_non_ignore=True),
    ),
)

max_iters = 300
train_cfg = dict(type="IterBasedTrainLoop", max_iters=max_iters, val_interval=max_iters)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=max_iters))
log_processor = dict(by_epoch=False)
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="bestiary.TimmOptimizer", name="nadamuon", ns_dtype="float32", lr=0.01, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=10.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=50),
    dict(type="CosineAnnealingLR", by_epoch=False, begin=0, end=max_iters, eta_min=0),
]
