"""Which digits are on a picture? Any number of classes each. Run: bestiary train THIS_FILE

The pictures of the digits' detector, with the digits on them for labels. The backbone starts from the classifier of
single digits: bestiary train quickstart/classifier_poolformer_digits. Three minutes on two threads of a CPU give a mean
average precision of 0.92, and F1 over all of 0.83.
"""

_base_ = [
    "../_base_/models/poolformer_digits.py",
    "../_base_/datasets/digits_classes.py",
    "../_base_/runtime.py",
]
default_scope = "bestiary"
work_dir = "work_dirs/heads/multi_label_digits"

model = dict(
    type="ImageClassifier",
    backbone=dict(**_base_.digits_backbone, out_indices=(3,), init_cfg=_base_.digits_weights),
    head=dict(
        type="ClassAttentionHead",
        in_channels=192,
        num_classes=10,
        num_heads=6,
        layer_scale_init=0.1,
        multi_label=True,
        loss="asymmetric",
    ),
)

pipeline = [dict(type="LoadPicture"), dict(type="PackImageInputs")]
data = dict(type="MultiLabelImages", data_root="data/digits/coco/", classes=_base_.digits_classes, pipeline=pipeline)
train_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    drop_last=True,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(**data, ann_file="annotations/instances_train2017.json", data_prefix="train2017"),
)
val_dataloader = dict(
    batch_size=32,
    num_workers=2,
    persistent_workers=True,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**data, ann_file="annotations/instances_val2017.json", data_prefix="val2017"),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="MultiLabelScores")
test_evaluator = val_evaluator

max_epochs = 10
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=max_epochs, val_interval=max_epochs)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="TimmOptimizer", name="nadamuon", lr=0.01, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.0, bias_decay_mult=0.0, flat_decay_mult=0.0),
    clip_grad=dict(max_norm=5.0),
)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min=0, convert_to_iter_based=True),
]
