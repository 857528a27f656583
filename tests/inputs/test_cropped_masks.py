"""CroppedMasks is BitmapMasks, number for number; mmdet's pipelines give the same by our steps."""

import copy
import pickle
import random

import cv2
import mmcv
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from mmdet.registry import TRANSFORMS
from mmdet.structures.bbox import HorizontalBoxes
from mmdet.structures.mask import BitmapMasks
from mmengine.registry import init_default_scope
from pycocotools import mask as rle_masks

from bestiary.inputs.cropped_masks import CroppedMasks, rasterise, run_lengths
from bestiary.inputs.detection_transforms import planes


def some_masks(rng, count, height, width):
    """The same masks both ways; crops with empty rows and columns, and of no size, are among them."""
    crops, corners, dense = [], [], np.zeros((count, height, width), np.uint8)
    for index in range(count):
        top, left = rng.integers(height), rng.integers(width)
        h, w = rng.integers(0, height - top + 1), rng.integers(0, width - left + 1)
        crop = (rng.random((h, w)) < rng.choice([0.02, 0.5, 1])).astype(np.uint8)
        crops.append(crop)
        corners.append((top, left))
        dense[index, top : top + h, left : left + w] = crop
    return CroppedMasks(crops, corners, height, width), BitmapMasks(dense, height, width)


def same(ours, theirs):
    assert isinstance(ours, BitmapMasks) and len(ours) == len(theirs)
    assert (ours.height, ours.width) == (theirs.height, theirs.width)
    assert ours.masks.dtype == theirs.masks.dtype and (ours.masks == theirs.masks).all()
    assert (ours.areas == theirs.areas).all()
    torch.testing.assert_close(ours.get_bboxes("hbox").tensor, theirs.get_bboxes("hbox").tensor, rtol=0, atol=0)


def pair(rng, low, high):
    return int(rng.integers(low, high)), int(rng.integers(low, high))


def window(masks, rng):
    """A part of the picture, at least a pixel of it; mmdet's own gives arrays without columns outside."""
    left, top = rng.integers(-3, masks.width), rng.integers(-3, masks.height)
    return np.array([left, top, max(left, 0) + rng.integers(1, 60), max(top, 0) + rng.integers(1, 60)])


STEPS = {
    "rescale": lambda masks, rng: (pair(rng, 1, 90),),
    "resize": lambda masks, rng: (pair(rng, 1, 70),),
    "flip": lambda masks, rng: (str(rng.choice(["horizontal", "vertical", "diagonal"])),),
    "pad": lambda masks, rng: ((masks.height + int(rng.integers(9)), masks.width + int(rng.integers(9))),),
    "crop": lambda masks, rng: (window(masks, rng),),
}


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_any_steps_give_the_same(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 50, 2)
    ours, theirs = some_masks(rng, int(rng.integers(0, 5)), height, width)
    same(ours, theirs)
    for _ in range(rng.integers(1, 6)):
        name = str(rng.choice(list(STEPS)))
        arguments = STEPS[name](ours, rng)
        if name == "rescale" and not all(mmcv.rescale_size((ours.width, ours.height), *arguments)):
            continue  # OpenCV makes nothing of no size
        ours, theirs = getattr(ours, name)(*arguments), getattr(theirs, name)(*arguments)
        same(ours, theirs)
        assert isinstance(ours, CroppedMasks)


def test_what_works_on_the_dense_masks():
    rng = np.random.default_rng(1)
    ours, theirs = some_masks(rng, 4, 31, 23)
    same(ours.pad((40, 30), 1), theirs.pad((40, 30), 1))
    same(ours.translate((31, 23), 5), theirs.translate((31, 23), 5))
    same(ours.expand(50, 40, 3, 2), theirs.expand(50, 40, 3, 2))
    same(ours.resize((20, 20), "bilinear"), theirs.resize((20, 20), "bilinear"))
    boxes, which = np.array([[1.5, 2, 20, 30], [0, 0, 9, 9.0]], np.float32), np.array([3, 0])
    same(ours.crop_and_resize(boxes, (7, 7), which), theirs.crop_and_resize(boxes, (7, 7), which))
    assert torch.equal(ours.to_tensor(torch.bool, "cpu"), theirs.to_tensor(torch.bool, "cpu"))
    same(BitmapMasks.cat([ours, ours]), BitmapMasks.cat([theirs, theirs]))


@pytest.mark.parametrize(
    "index", [2, slice(1, 3), [3, 0], np.array([True, False, True, False]), np.array([], int), torch.tensor([1, 2])]
)
def test_choosing(index):
    ours, theirs = some_masks(np.random.default_rng(2), 4, 9, 8)
    same(ours[index], theirs[index.numpy() if isinstance(index, torch.Tensor) else index])


def test_pickled_without_the_dense_masks():
    ours, theirs = some_masks(np.random.default_rng(3), 3, 500, 400)
    ours = ours.crop(np.array([0, 0, 400, 500]))[np.arange(3)]
    few = CroppedMasks([crop[:5, :5] for crop in ours.crops], ours.corners, 500, 400)
    assert few.masks.shape == (3, 500, 400)
    assert len(pickle.dumps(few)) < 1000
    same(pickle.loads(pickle.dumps(ours)), theirs)


def whole(mask, height, width):
    runs = rle_masks.frPyObjects(mask, height, width)
    return rle_masks.decode(rle_masks.merge(runs) if isinstance(mask, list) else runs)


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_outlines_are_filled_as_by_pycocotools(seed):
    """Also outlines that leave the picture, of several parts, of whole and half coordinates, of no area."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 60, 2)
    parts = []
    for _ in range(rng.integers(1, 4)):
        middle, reach = rng.uniform(-10, 70, 2), rng.choice([0, 1, 5, 40])
        points = (middle + rng.uniform(-reach, reach, (rng.integers(3, 9), 2))).ravel()
        parts.append(points.round(int(rng.integers(0, 3))).tolist())
    small, (top, left) = rasterise(parts, height, width)
    found = np.zeros((height, width), np.uint8)
    found[top : top + small.shape[0], left : left + small.shape[1]] = small
    assert (found == whole(parts, height, width)).all()


def test_run_lengths():
    runs = dict(size=[4, 5], counts=[6, 2, 3, 1, 8])
    small, (top, left) = rasterise(runs, 4, 5)
    found = np.zeros((4, 5), np.uint8)
    found[top : top + small.shape[0], left : left + small.shape[1]] = small
    assert (found == whole(runs, 4, 5)).all() and found.sum() == 3
    packed = rle_masks.frPyObjects(runs, 4, 5)
    assert (rasterise(packed, 4, 5)[0] == small).all()
    assert (rasterise(packed | dict(counts=packed["counts"].decode()), 4, 5)[0] == small).all()
    for nothing in (dict(size=[4, 5], counts=[20]), dict(size=[4, 5], counts=[5, 0, 15])):
        assert rasterise(nothing, 4, 5)[0].size == 0
    full, at = rasterise(dict(size=[4, 5], counts=[0, 20]), 4, 5)
    assert full.shape == (4, 5) and full.all() and at == (0, 0)


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_strings_of_run_lengths(seed):
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 700, 2)
    mask = np.asfortranarray(cv2.resize(rng.integers(2, size=(5, 5), dtype=np.uint8), (width, height), interpolation=0))
    packed = rle_masks.encode(mask)
    flat = np.concatenate([[0], mask.ravel("F"), [2]])
    changes = np.flatnonzero(np.diff(flat))
    assert np.array_equal(run_lengths(packed["counts"]), np.diff(changes, prepend=0))
    small, (top, left) = rasterise(packed, height, width)
    found = np.zeros((height, width), np.uint8)
    found[top : top + small.shape[0], left : left + small.shape[1]] = small
    assert (found == mask).all()


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
@pytest.mark.parametrize("turn", [(1, 1), (1, -1), (-1, 1), (-1, -1)])
def test_planes(channels, turn):
    rng = np.random.default_rng(4)
    for dtype in (np.uint8, np.float32):
        picture = rng.integers(256, size=(13, 9, channels)).astype(dtype)[:: turn[0], :: turn[1]]
        before = picture.copy()
        assert np.array_equal(planes(picture).numpy(), picture.transpose(2, 0, 1))
        assert planes(picture).is_contiguous() and (picture == before).all()
    flat = rng.integers(256, size=(6, 5), dtype=np.uint8)
    assert np.array_equal(planes(flat).numpy(), flat[None])
    part = rng.integers(256, size=(20, 20, 3), dtype=np.uint8)[3:9, ::2]
    assert np.array_equal(planes(part).numpy(), part.transpose(2, 0, 1))


SIDE = (96, 80)
PIPELINES = {
    "1x": [dict(type="Resize", scale=(133, 80), keep_ratio=True), dict(type="RandomFlip", prob=0.5)],
    "large jitter": [
        dict(type="RandomResize", scale=SIDE, ratio_range=(0.1, 2.0), keep_ratio=True),
        dict(type="RandomCrop", crop_type="absolute", crop_size=SIDE, recompute_bbox=True, allow_negative_crop=True),
        dict(type="FilterAnnotations", min_gt_bbox_wh=(1e-2, 1e-2), by_mask=True),
        dict(type="RandomFlip", prob=[0.3, 0.3, 0.3], direction=["horizontal", "vertical", "diagonal"]),
        dict(type="Pad", size=SIDE),
    ],
    "stretched": [dict(type="Resize", scale=(50, 70), keep_ratio=False), dict(type="RandomShift", prob=0.5)],
}


@pytest.mark.parametrize("steps", PIPELINES.values(), ids=PIPELINES)
def test_pipelines_give_what_mmdets_give(steps, tmp_path):
    init_default_scope("mmdet")
    rng = np.random.default_rng(5)
    path = tmp_path / "a.jpg"
    cv2.imwrite(str(path), rng.integers(256, size=(61, 83, 3), dtype=np.uint8))
    instances = []
    for index in range(6):
        corner, size = rng.uniform([-5, -5], [70, 50]), rng.uniform(2, 30, 2)
        points = (corner + rng.uniform(0, 1, (7, 2)) * size).ravel().tolist()
        mask = [points] if index else [[1.0, 2.0]]  # the first is no outline: mmdet leaves its object out
        instances.append(dict(bbox=[*corner, *(corner + size)], bbox_label=index, ignore_flag=index % 2, mask=mask))
    for repeat in range(12):
        found = []
        for scope in ("", "bestiary."):
            ends = [
                dict(type="LoadImageFromFile"), dict(type=f"{scope}LoadAnnotations", with_bbox=True, with_mask=True),
                *steps, dict(type=f"{scope}PackDetInputs"),
            ]  # fmt: skip
            np.random.seed(repeat)
            random.seed(repeat)
            # An empty picture every third time.
            own = copy.deepcopy(instances) if repeat % 3 else []
            results = dict(img_path=str(path), img_id=1, height=61, width=83, instances=own)
            for step in ends:
                results = TRANSFORMS.build(step)(results) if results is not None else None
            found.append(results)
        plain, ours = found
        assert (plain is None) == (ours is None)
        if plain is None:
            continue
        assert torch.equal(plain["inputs"], ours["inputs"]) and ours["inputs"].dtype == torch.uint8
        for part in ("gt_instances", "ignored_instances"):
            a, b = getattr(plain["data_samples"], part), getattr(ours["data_samples"], part)
            assert isinstance(b.bboxes, HorizontalBoxes) and torch.equal(a.bboxes.tensor, b.bboxes.tensor)
            assert torch.equal(a.labels, b.labels)
            same(b.masks, a.masks)
        assert plain["data_samples"].metainfo.keys() == ours["data_samples"].metainfo.keys()
