"""Which digits are on a picture? Any number of classes each. Run: bestiary train THIS_FILE

The pictures of the digits' detector, with the digits on them for labels. The backbone starts from the classifier of
single digits: bestiary train quickstart/classifier_poolformer_digits. Three minutes on two threads of a CPU give a mean
average precision of 0.92, and F1 over all of 0.83.
"""

_base_ = ["../quickstart/classifier_poolformer_digits.py", "../_base_/datasets/digits_classes.py"]
work_dir = "work_dirs/heads/multi_label_digits"

model = dict(
    backbone=dict(
        init_cfg=dict(type="Pretrained", checkpoint="work_dirs/quickstart/classifier/epoch_8.pth"),
    ),
    head=dict(
        _delete_=True,
        type="ClassAttentionHead",
        in_channels=192,
        num_classes=10,
        num_heads=6,
        layer_scale_init=0.1,
        multi_label=True,
        loss="asymmetric",
    ),
)

pictures = dict(
    _delete_=True,
    type="MultiLabelImages",
    data_root="data/digits/coco/",
    classes=_base_.digits_classes,
    pipeline=[dict(type="LoadPicture"), dict(type="PackImageInputs")],
)
train_dataloader = dict(
    batch_size=32,
    dataset=dict(**pictures, ann_file="annotations/instances_train2017.json", data_prefix="train2017"),
)
val_dataloader = dict(
    batch_size=32,
    dataset=dict(**pictures, ann_file="annotations/instances_val2017.json", data_prefix="val2017"),
)
test_dataloader = val_dataloader
val_evaluator = dict(_delete_=True, type="MultiLabelScores")
test_evaluator = val_evaluator

max_epochs = 10
train_cfg = dict(max_epochs=max_epochs, val_interval=max_epochs)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.05, by_epoch=False, begin=0, end=30),
    dict(type="CosineAnnealingLR", by_epoch=True, begin=0, end=max_epochs, eta_min=0, convert_to_iter_based=True),
]
