"""A classifier, PoolFormer-S12, for pictures of yours in class folders.

Run: bestiary train mydata/classifier_poolformer --data PICTURES

The classes are the folders, sorted as text. Nobody has published a score.
"""

_base_ = ["../_base_/mydata_runtime.py"]
default_scope = "bestiary"
pictures = val_pictures = None
side = 224

train_pipeline = [
    dict(type="LoadPicture"),
    dict(
        type="TorchvisionTransform",
        transforms=[dict(type="Resize", size=[side, side]), dict(type="RandomHorizontalFlip")],
    ),
    dict(type="PackImageInputs"),
]
test_pipeline = [
    dict(type="LoadPicture"),
    dict(type="TorchvisionTransform", transforms=[dict(type="Resize", size=[side, side])]),
    dict(type="PackImageInputs"),
]
train_dataloader = dict(
    **_base_.LOADER,
    batch_size=32,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(type="ImageFolder", pipeline=train_pipeline),
)
val_dataloader = dict(
    **_base_.LOADER,
    batch_size=32,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(type="ImageFolder", pipeline=test_pipeline),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="TopkAccuracy", topk=(1,))
test_evaluator = val_evaluator
model = dict(
    type="ImageClassifier",
    backbone=dict(**_base_.backbone, out_indices=(3,)),
    head=dict(type="LinearHead", in_channels=512, num_classes=1000, label_smoothing=0.1),
)
default_hooks = dict(checkpoint=dict(save_best="accuracy/top1"))
