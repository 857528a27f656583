"""Tiny data and configs for the tools' tests: coloured squares and discs on noise, three tasks, seconds to train."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmcv.transforms import BaseTransform
from pycocotools import mask as coco_mask

from bestiary.inputs.class_sample import ClassSample
from bestiary.registry import DATASETS, TRANSFORMS

CLASSES = ("square", "disc")
SIDE = 64


def make_data(root: Path, train: int = 8, val: int = 4) -> Path:
    """`root`/coco (JSON with RLE masks), `root`/seg (pictures and label PNGs), `root`/cls (class folders)."""
    rng = np.random.default_rng(0)
    for split, count in (("train", train), ("val", val)):
        for folder in (root / "coco" / split, root / "seg" / "images" / split, root / "seg" / "labels" / split):
            folder.mkdir(parents=True)
        images, annotations = [], []
        for number in range(count):
            picture = rng.integers(0, 90, (SIDE, SIDE, 3), dtype=np.uint8)
            labels = np.zeros((SIDE, SIDE), np.uint8)
            name = f"{number:03d}.png"
            images.append(dict(id=number, file_name=name, height=SIDE, width=SIDE))
            for kind, left in enumerate((2, 34)):
                mask = np.zeros((SIDE, SIDE), np.uint8)
                x, y, size = left + int(rng.integers(0, 8)), int(rng.integers(4, 36)), int(rng.integers(14, 22))
                if kind == 0:
                    mask[y : y + size, x : x + size] = 1
                else:
                    cv2.circle(mask, (x + size // 2, y + size // 2), size // 2, 1, -1)
                picture[mask > 0] = (220, 60, 60) if kind == 0 else (60, 200, 220)
                labels[mask > 0] = kind + 1
                rle = coco_mask.encode(np.asfortranarray(mask))
                box = [float(value) for value in coco_mask.toBbox(rle)]
                annotations.append(
                    dict(
                        id=len(annotations) + 1,
                        image_id=number,
                        category_id=kind + 1,
                        bbox=box,
                        area=float(mask.sum()),
                        iscrowd=0,
                        segmentation=dict(size=[SIDE, SIDE], counts=rle["counts"].decode()),
                    )
                )
                crop = root / "cls" / split / CLASSES[kind]
                crop.mkdir(parents=True, exist_ok=True)
                cv2.imwrite(str(crop / name), picture[:, kind * 32 : kind * 32 + 32])
            cv2.imwrite(str(root / "coco" / split / name), picture)
            cv2.imwrite(str(root / "seg" / "images" / split / name), picture)
            cv2.imwrite(str(root / "seg" / "labels" / split / name), labels)
        categories = [dict(id=i + 1, name=name) for i, name in enumerate(CLASSES)]
        content = dict(images=images, annotations=annotations, categories=categories)
        (root / "coco" / f"{split}.json").write_text(json.dumps(content))
    return root


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
optim_wrapper = dict(type="OptimWrapper", optimizer=dict(type="AdamW", lr=1e-3))
train_cfg = dict(type="EpochBasedTrainLoop", max_epochs=2, val_interval=1)
val_cfg = dict(type="ValLoop")
test_cfg = dict(type="TestLoop")
randomness = dict(seed=0)
ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale_init=1.0)

"""

DETECTION = """
_base_ = ["mmdet::_base_/models/mask-rcnn_r50_fpn.py", "./common.py"]
default_scope = "mmdet"
steps = [
    dict(type="LoadImageFromFile"),
    dict(type="Resize", scale=(64, 64), keep_ratio=True),  # Mask R-CNN asks for its scale_factor
    dict(type="LoadAnnotations", with_bbox=True, with_mask=True),
]
keys = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
data = dict(type="CocoDataset", metainfo=dict(classes=("square", "disc")), data_root=ROOT + "/coco/")
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=True),
    dataset=dict(
        **data, ann_file="train.json", data_prefix=dict(img="train/"), pipeline=[*steps, dict(type="PackDetInputs")]
    ),
)
val_dataloader = dict(
    batch_size=2,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(
        **data,
        ann_file="val.json",
        data_prefix=dict(img="val/"),
        test_mode=True,
        pipeline=[*steps, dict(type="PackDetInputs", meta_keys=keys)],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="CocoMetric", ann_file=ROOT + "/coco/val.json", metric=["bbox", "segm"])
test_evaluator = val_evaluator
model = dict(
    backbone=dict(_delete_=True, type="bestiary.PoolFormer", arch=ARCH),
    neck=dict(in_channels=[8, 16, 24, 32], out_channels=16, num_outs=4),
    rpn_head=dict(
        in_channels=16, feat_channels=16, anchor_generator=dict(scales=[4], strides=[4, 8, 16, 32])
    ),
    roi_head=dict(
        bbox_roi_extractor=dict(out_channels=16),
        bbox_head=dict(in_channels=16, fc_out_channels=32, num_classes=2),
        mask_roi_extractor=dict(out_channels=16),
        mask_head=dict(num_convs=1, in_channels=16, conv_out_channels=16, num_classes=2),
    ),
    test_cfg=dict(rpn=dict(max_per_img=20), rcnn=dict(score_thr=0.0, max_per_img=5)),
)
"""

SEGMENTATION = """
_base_ = ["./common.py"]
default_scope = "mmseg"
data = dict(
    type="BaseSegDataset",
    metainfo=dict(classes=("background", "square", "disc"), palette=[[40, 40, 40], [230, 25, 75], [0, 130, 200]]),
    data_root=ROOT + "/seg/",
    img_suffix=".png",
    reduce_zero_label=False,
)
steps = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")]
train_dataloader = dict(
    batch_size=4,
    num_workers=0,
    sampler=dict(type="InfiniteSampler", shuffle=True),
    dataset=dict(**data, data_prefix=dict(img_path="images/train", seg_map_path="labels/train"), pipeline=steps),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=0,
    sampler=dict(type="DefaultSampler", shuffle=False),
    dataset=dict(**data, data_prefix=dict(img_path="images/val", seg_map_path="labels/val"), pipeline=steps),
)
test_dataloader = val_dataloader
val_evaluator = dict(type="IoUMetric", iou_metrics=["mIoU"])
test_evaluator = val_evaluator
train_cfg = dict(_delete_=True, type="IterBasedTrainLoop", max_iters=4, val_interval=2)
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=2))
log_processor = dict(by_epoch=False)
model = dict(
    type="EncoderDecoder",
    data_preprocessor=dict(type="SegDataPreProcessor", mean=[60.0] * 3, std=[60.0] * 3, size=(64, 64)),
    backbone=dict(type="bestiary.PoolFormer", arch=ARCH, out_indices=(2,)),
    decode_head=dict(
        type="FCNHead",
        in_channels=24,
        in_index=0,
        channels=16,
        num_convs=1,
        num_classes=3,
        norm_cfg=dict(type="BN"),
        loss_decode=dict(type="CrossEntropyLoss"),
    ),
    train_cfg=dict(),
    test_cfg=dict(mode="whole"),
)
"""


@TRANSFORMS.register_module()
class TinyPackClass(BaseTransform):
    """A picture as a classifier takes it; the test of `infer` is not one of the data readers."""

    def transform(self, results: dict) -> dict:
        picture = np.ascontiguousarray(results["img"][..., ::-1].transpose(2, 0, 1))
        return dict(inputs=torch.from_numpy(picture), data_samples=ClassSample())


CLASSIFICATION = """
_base_ = ["./common.py"]
default_scope = "bestiary"
test_dataloader = dict(
    dataset=dict(
        type="TinyDataset",
        root=ROOT + "/cls/val",
        metainfo=dict(classes=("square", "disc", "none")),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="TinyPackClass")],
    )
)
model = dict(
    type="ImageClassifier",
    backbone=dict(type="PoolFormer", arch=ARCH, out_indices=(3,)),
    head=dict(type="LinearHead", in_channels=32, num_classes=3),
)
"""


@DATASETS.register_module()
class TinyDataset:
    """Knows the class of every picture that it is asked for by the name of its folder."""

    def __init__(self, root: str = "", pipeline=(), test_mode=False, metainfo=None) -> None:
        self.files = sorted(Path(root).glob("*/*.png")) if root else []

    def __len__(self) -> int:
        return len(self.files)

    def get_data_info(self, index: int) -> dict:
        return dict(img_path=str(self.files[index]), gt_label=CLASSES.index(self.files[index].parent.name))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory):
    """A folder with the data and the configs detection.py, segmentation.py and classification.py (to infer with)."""
    root = make_data(tmp_path_factory.mktemp("tiny"))
    (root / "common.py").write_text(COMMON)
    for name, text in dict(detection=DETECTION, segmentation=SEGMENTATION, classification=CLASSIFICATION).items():
        text = text.replace("ARCH", "{{_base_.ARCH}}").replace("ROOT", repr(str(root)))
        (root / f"{name}.py").write_text(text)
    return root
