"""A bank of mistakes: small configs that are right, and what a person gets wrong in them or in their data."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from PIL import Image

COMMON = """
custom_imports = dict(imports=["bestiary"])
default_hooks = dict(
    timer=dict(type="IterTimerHook"),
    logger=dict(type="LoggerHook", interval=1),
    param_scheduler=dict(type="ParamSchedulerHook"),
    checkpoint=dict(type="CheckpointHook", interval=1),
    sampler_seed=dict(type="DistSamplerSeedHook"),
)
env_cfg = dict(mp_cfg=dict(mp_start_method="fork", opencv_num_threads=0), dist_cfg=dict(backend="nccl"))
optim_wrapper = dict(
    type="OptimWrapper",
    optimizer=dict(type="SGD", lr=1e-3, momentum=0.9, weight_decay=1e-4),
    clip_grad=dict(max_norm=5.0),
    paramwise_cfg=dict(norm_decay_mult=0.0, custom_keys=dict(backbone=dict(lr_mult=0.1))),
)
val_cfg = dict(type="ValLoop")
log_level = "ERROR"
randomness = dict(seed=0)
LOADER = dict(num_workers=0, sampler=dict(type="DefaultSampler", shuffle=False))
"""
BY_EPOCH = """
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
param_scheduler = [
    dict(type="LinearLR", start_factor=0.1, by_epoch=False, begin=0, end=2),
    dict(type="MultiStepLR", by_epoch=True, milestones=[1], begin=0, end=2),
]
"""
TEXTS = {
    "detection": """
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "./common.py"]
default_scope = "mmdet"
steps = [dict(type="LoadImageFromFile"), dict(type="Resize", scale=(64, 64), keep_ratio=True)]
loads = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
common = dict(type="CocoDataset", metainfo=dict(classes=("square", "disc")), data_root=ROOT + "/coco/")
train_dataloader = dict(
    **_base_.LOADER,
    batch_size=2,
    dataset=dict(
        **common,
        ann_file="train.json",
        data_prefix=dict(img="train/"),
        pipeline=[*steps, loads, dict(type="RandomFlip", prob=0.5), dict(type="PackDetInputs")],
    ),
)
val_dataloader = dict(
    **_base_.LOADER,
    batch_size=2,
    dataset=dict(
        **common,
        ann_file="val.json",
        data_prefix=dict(img="val/"),
        test_mode=True,
        pipeline=[*steps, loads, dict(type="PackDetInputs", meta_keys=keys)],
    ),
)
val_evaluator = dict(type="CocoMetric", ann_file=ROOT + "/coco/val.json", metric=["bbox", "segm"])
BY_EPOCH
model = dict(
    backbone=dict(depth=18, base_channels=8, frozen_stages=-1, init_cfg=None),
    neck=dict(in_channels=[8, 16, 32, 64], out_channels=16, num_outs=4),
    rpn_head=dict(in_channels=16, feat_channels=16, anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2),
    ),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
""".replace("BY_EPOCH", BY_EPOCH),
    "segmentation": """
_base_ = ["./common.py"]
default_scope = "mmseg"
classes = ("background", "square", "disc")
common = dict(
    type="BaseSegDataset",
    metainfo=dict(classes=classes, palette=[[40, 40, 40], [230, 25, 75], [0, 130, 200]]),
    data_root=ROOT + "/seg/",
    img_suffix=".png",
    reduce_zero_label=False,
)
steps = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(**common, data_prefix=dict(img_path="images/train", seg_map_path="labels/train"), pipeline=steps),
)
val_dataloader = dict(
    **_base_.LOADER,
    batch_size=1,
    dataset=dict(**common, data_prefix=dict(img_path="images/val", seg_map_path="labels/val"), pipeline=steps),
)
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
train_cfg = dict(type="IterBasedTrainLoop", max_iters=4, val_interval=2)
param_scheduler = [dict(type="PolyLR", power=0.9, by_epoch=False, begin=0, end=4)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
log_processor = dict(by_epoch=False)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[60.0] * 3, std=[60.0] * 3, size=(64, 64)),
    backbone=dict(type="ResNet", depth=18, base_channels=8),
    decode_head=dict(
        type="FCNHead",
        in_channels=64,
        in_index=3,
        channels=16,
        num_convs=1,
        num_classes=3,
        norm_cfg=dict(type="BN"),
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    auxiliary_head=dict(type="FCNHead", in_channels=32, in_index=2, channels=16, num_convs=1, num_classes=3),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
""",
    "classification": """
_base_ = ["./common.py"]
default_scope = "bestiary"
steps = [dict(type="LoadPicture"), dict(type="PackImageInputs")]
common = dict(type="ImageFolder", data_root=ROOT + "/cls", pipeline=steps)
train_dataloader = dict(**_base_.LOADER, batch_size=2, dataset=dict(**common, data_prefix="train"))
val_dataloader = dict(**_base_.LOADER, batch_size=2, dataset=dict(**common, data_prefix="val"))
val_evaluator = dict(type="TopkAccuracy", topk=(1,))
BY_EPOCH
model = dict(
    type="ImageClassifier",
    backbone=dict(
        type="PoolFormer", arch=dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale_init=1.0), out_indices=(3,)
    ),
    head=dict(type="LinearHead", in_channels=32, num_classes=2),
)
""".replace("BY_EPOCH", BY_EPOCH),
}


class Mistake(NamedTuple):
    """What is done to a config, and to a copy of the data; the key or file and the fix that the message must name."""

    name: str
    task: str
    options: dict[str, Any]  # dotted key: value; a value MOVED moves what is there
    names: str
    fix: str
    harm: Callable[[Path], None] | None = None


class Moved(NamedTuple):
    """The value of a key under another name, the key itself gone."""

    to: str


def load(task: str, root: Path) -> Config:
    """A right config of a task on the data in `root`."""
    (root / "common.py").write_text(COMMON)
    path = root / f"{task}.py"
    path.write_text(TEXTS[task].replace("ROOT", repr(str(root))))
    cfg = Config.fromfile(path)
    cfg.work_dir = str(root / "work")
    return cfg


def make(mistake: Mistake, root: Path) -> Config:
    """The config with the mistake in it; the data in `root` are changed."""
    cfg = load(mistake.task, root)
    for key, value in mistake.options.items():
        parent, _, name = key.rpartition(".")
        place = cfg
        for part in parent.split(".") if parent else ():
            place = place[int(part)] if isinstance(place, list) else place[part]
        if isinstance(value, Moved):
            place[value.to] = place.pop(name)
        else:
            place[name] = _placed(value, root)
    if mistake.harm is not None:
        mistake.harm(root)
    return cfg


def _placed(value: Any, root: Path) -> Any:
    """ROOT in texts becomes the folder of the data."""
    if isinstance(value, dict):
        return {key: _placed(part, root) for key, part in value.items()}
    return value.replace("ROOT", str(root)) if isinstance(value, str) else value


def rewrite(name: str, change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Change a JSON file of the data."""

    def harm(root: Path) -> None:
        path = root / name
        content = json.loads(path.read_text())
        change(content)
        path.write_text(json.dumps(content))

    return harm


def each(field: str, value: Any) -> Callable[[dict], None]:
    """Set a field of every annotation; a function is given the annotation."""

    def change(content: dict) -> None:
        for entry in content["annotations"]:
            entry[field] = value(entry) if callable(value) else value

    return change


def without_masks(content: dict) -> None:
    for entry in content["annotations"]:
        del entry["segmentation"]


def twice(content: dict) -> None:
    content["images"].append(content["images"][0])


def other_names(content: dict) -> None:
    for category in content["categories"]:
        category["name"] = f"class_{category['id']}"


def other_order(content: dict) -> None:
    content["categories"].reverse()


def other_size(content: dict) -> None:
    content["images"][0].update(width=80, height=48)


def no_objects(content: dict) -> None:
    content["annotations"] = []


def gone(name: str) -> Callable[[Path], None]:
    return lambda root: (root / name).unlink()


def written(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda root: (root / name).write_bytes(content)


def label(value: int) -> Callable[[Path], None]:
    """Every label image has a value that is no class."""

    def harm(root: Path) -> None:
        for path in (root / "seg/labels/train").glob("*.png"):
            Image.fromarray(np.where(np.asarray(Image.open(path)) == 2, value, 0).astype(np.uint8)).save(path)

    return harm


def all_ignored(root: Path) -> None:
    for path in (root / "seg/labels/train").glob("*.png"):
        Image.fromarray(np.full((64, 64), 255, np.uint8)).save(path)


def coloured(root: Path) -> None:
    path = root / "seg/labels/train/000.png"
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(path)


def other_weights(root: Path) -> None:
    torch.save({"conv1.weight": torch.zeros(8, 3, 7, 7)}, root / "other.pth")


TRAIN, VAL = "train_dataloader.dataset", "val_dataloader.dataset"
CORNERS = each("bbox", lambda entry: [*entry["bbox"][:2], *(a + b for a, b in zip(*halves(entry), strict=True))])


def halves(entry: dict) -> tuple[list, list]:
    return entry["bbox"][:2], [40 + size for size in entry["bbox"][2:]]
