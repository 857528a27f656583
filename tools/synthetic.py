"""Random batches in memory, for trying models without data: what mmdet, mmseg and our classifiers are given."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from mmdet.structures import DetDataSample
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.structures import InstanceData, PixelData
from mmseg.structures import SegDataSample

from bestiary.inputs import ClassSample


def detection_batch(
    sizes: Sequence[tuple[int, int]], wanted: set[str], num_classes: int = 80, seed: int = 0
) -> dict[str, list]:
    """Random pictures with three boxes each, one small.

    Each box holds an elliptic mask if `with_mask` is wanted; `with_seg` adds a map of classes, `proposals` three boxes.
    """
    rng = np.random.default_rng(seed)
    inputs, samples = [], []
    for index, (h, w) in enumerate(sizes):
        size = rng.uniform([0.4, 0.3, 0.1], [0.7, 0.5, 0.2], (2, 3)).T * [w, h]
        corner = rng.uniform(0, 1, (3, 2)) * ([w, h] - size)
        boxes = np.concatenate([corner, corner + size], axis=1)
        shape = dict(img_id=index, img_shape=(h, w), ori_shape=(h, w), scale_factor=(1.0, 1.0), flip=False)
        sample = DetDataSample(metainfo=dict(shape, border=(0, h, 0, w)))  # of CenterNet and CornerNet
        sample.gt_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.tensor(boxes, dtype=torch.float32)),
            labels=torch.tensor(rng.integers(num_classes, size=3)),
        )
        sample.ignored_instances = InstanceData(
            bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=torch.zeros(0, dtype=torch.long)
        )
        if "with_mask" in wanted:
            y, x = np.mgrid[:h, :w] + 0.5
            centre, radius = (corner + size / 2)[..., None, None], (size / 2)[..., None, None]
            masks = ((x - centre[:, 0]) / radius[:, 0]) ** 2 + ((y - centre[:, 1]) / radius[:, 1]) ** 2 <= 1
            sample.gt_instances.masks = BitmapMasks(masks.astype(np.uint8), h, w)
        if "with_seg" in wanted:
            sample.gt_sem_seg = PixelData(sem_seg=torch.tensor(rng.integers(num_classes, 133, (1, h, w))))
        if "proposals" in wanted:
            jitter = torch.tensor(rng.uniform(-2, 2, (3, 4)), dtype=torch.float32)
            proposals = (torch.tensor(boxes, dtype=torch.float32) + jitter).clamp(min=0)
            sample.proposals = InstanceData(bboxes=proposals, scores=torch.ones(3))
        samples.append(sample)
        inputs.append(torch.tensor(rng.integers(256, size=(3, h, w)), dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


def segmentation_batch(
    size: tuple[int, int], num_classes: int, count: int, seed: int = 0, ignored: float = 0.1
) -> dict[str, list]:
    """Random pictures in blocks of random classes, a share of the pixels `ignored`."""

    generator = torch.Generator().manual_seed(seed)
    inputs, samples = [], []
    for index in range(count):
        labels = torch.randint(num_classes, (1, *(-(-side // 24) for side in size)), generator=generator)
        labels = labels.repeat_interleave(24, 1).repeat_interleave(24, 2)[:, : size[0], : size[1]].clone()
        labels[torch.rand(labels.shape, generator=generator) < ignored] = 255
        shape = dict(img_id=index, img_shape=size, ori_shape=size, pad_shape=size, scale_factor=(1.0, 1.0), flip=False)
        samples.append(SegDataSample(metainfo=shape, gt_sem_seg=PixelData(data=labels)))
        inputs.append(torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


def classification_batch(size: tuple[int, int], num_classes: int, count: int, seed: int = 0) -> dict[str, list]:
    """Random pictures of random classes."""
    generator = torch.Generator().manual_seed(seed)
    inputs = [torch.randint(256, (3, *size), generator=generator, dtype=torch.uint8) for _ in range(count)]
    labels = torch.randint(num_classes, (count,), generator=generator)
    return dict(inputs=inputs, data_samples=[ClassSample().set_gt_label(int(label)) for label in labels])


def asked_of_data(node: Any) -> set[str]:
    """What pipelines load beside boxes: 'with_mask', 'with_seg'."""
    found = set()
    if isinstance(node, dict):
        found = {key for key in ("with_mask", "with_seg") if node.get(key)}
        if node.get("type") == "LoadPanopticAnnotations":
            found = {"with_mask", "with_seg"}
        if node.get("type") == "LoadProposals":
            found = {"proposals"}
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list | tuple) else ():
        found |= asked_of_data(child)
    return found


def keep_a_few_unsure(node: Any) -> None:
    """Settings of a prediction: an untrained network is sure of nothing, a threshold would leave nothing to look at."""
    for key in ("score_thr", "filter_thr", "mask_score_thr", "mask_thr"):
        if key in node:
            node[key] = 0.0
    if "nms" in node and "max_per_img" in node:
        node["max_per_img"] = 10
    for child in node.values():
        if isinstance(child, dict):
            keep_a_few_unsure(child)
