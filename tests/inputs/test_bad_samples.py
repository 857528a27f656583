"""What a sample's reading raises: damaged data, told by path, or a bug, which keeps its traceback."""

import json

import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile
from mmengine.registry import init_default_scope
from PIL import Image

from bestiary.errors import InputError
from bestiary.inputs.bad_samples import SampleReader

SIDE = 24


def picture(path, side=SIDE, kind="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(0).integers(0, 2, (side, side), dtype=np.uint8)).convert(kind).save(path)
    return path


@pytest.fixture
def segmentation(tmp_path):
    """Makes mmseg's data set of one picture and its labels, damaged by `harm(root)` after it was listed."""

    def make(harm=lambda root: None, steps=()):
        init_default_scope("mmseg")
        from mmseg.datasets import BaseSegDataset

        picture(tmp_path / "images/0.png")
        picture(tmp_path / "labels/0.png", kind="L")
        dataset = BaseSegDataset(
            data_root=str(tmp_path),
            data_prefix=dict(img_path="images", seg_map_path="labels"),
            img_suffix=".png",
            metainfo=dict(classes=("a", "b")),
            pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), *steps, dict(type="PackSegInputs")],
        )
        harm(tmp_path)
        return SampleReader(dataset)

    return make


@pytest.fixture
def detection(tmp_path):
    """The same with mmdet's, its annotation as given."""

    def make(harm=lambda root: None, steps=(), **annotation):
        init_default_scope("mmdet")
        from mmdet.datasets import CocoDataset

        picture(tmp_path / "0.png")
        entry = dict(id=1, image_id=1, category_id=1, bbox=[2, 2, 9, 9], area=81, iscrowd=0) | annotation
        image = dict(id=1, file_name="0.png", width=SIDE, height=SIDE)
        document = dict(images=[image], annotations=[entry], categories=[dict(id=1, name="a")])
        (tmp_path / "a.json").write_text(json.dumps(document))
        loads = dict(type="LoadAnnotations", with_bbox=True, with_mask=True)
        dataset = CocoDataset(
            ann_file=str(tmp_path / "a.json"),
            data_prefix=dict(img=str(tmp_path)),
            metainfo=dict(classes=("a",)),
            pipeline=[dict(type="LoadImageFromFile"), loads, *steps, dict(type="PackDetInputs")],
        )
        harm(tmp_path)
        return SampleReader(dataset)

    return make


def cut(name):
    return lambda root: (root / name).write_bytes((root / name).read_bytes()[:40])


def empty(name):
    return lambda root: (root / name).write_bytes(b"")


def gone(name):
    return lambda root: (root / name).unlink()


def folder(name):
    return lambda root: ((root / name).unlink(), (root / name).mkdir())


HARMS = [(cut, "decoded|truncated"), (empty, "decoded|malformed"), (gone, "no such file")]
HARMS += [(folder, "Is a directory")]


@pytest.mark.parametrize("name", ["images/0.png", "labels/0.png"])
@pytest.mark.parametrize("harm, words", HARMS, ids=["cut", "empty", "gone", "folder"])
def test_damaged_files_of_a_segmentor(harm, words, name, segmentation):
    with pytest.raises(InputError, match=rf"{name}: .*({words})"):
        segmentation(harm(name))(0)


@pytest.mark.parametrize("harm, words", HARMS, ids=["cut", "empty", "gone", "folder"])
def test_damaged_files_of_a_detector(harm, words, detection):
    with pytest.raises(InputError, match=rf"0\.png: .*({words})"):
        detection(harm("0.png"), segmentation=[[2, 2, 11, 2, 11, 11]])(0)


def test_labels_of_another_size_than_their_picture(segmentation):
    """mmseg itself trains on them, misaligned, where a resizing step hides it."""
    resize = dict(type="Resize", scale=(SIDE, SIDE), keep_ratio=False)
    with pytest.raises(InputError, match=r"labels/0\.png: 12 x 12 pixels, its picture has 24 x 24"):
        segmentation(lambda root: picture(root / "labels/0.png", SIDE // 2, "L"), [resize])(0)


MASKS = {
    "an RLE of another size": dict(size=[SIDE // 2, SIDE], counts=[0, SIDE * SIDE // 2]),
    "an RLE of nonsense": dict(size=[SIDE, SIDE], counts=[1, "x"]),
    "a number": 7,
}


@pytest.mark.parametrize("mask", MASKS)
def test_malformed_masks(mask, detection):
    flip = dict(type="RandomFlip", prob=0.0)
    with pytest.raises(InputError, match=r"0\.png: its picture or annotation is malformed"):
        detection(segmentation=MASKS[mask], steps=[flip])(0)


def test_whole_samples_are_read(segmentation, detection):
    assert segmentation()(0)["data_samples"].gt_sem_seg.data.shape == (1, SIDE, SIDE)
    sample = detection(segmentation=[[2, 2, 11, 2, 11, 11]])(0)["data_samples"]
    assert len(sample.gt_instances.masks) == 1


class Buggy:
    """A step of a person's own."""

    def __init__(self, error):
        self.error = error

    def __call__(self, results):
        raise self.error


class LoadMine(LoadImageFromFile):
    """One that loads, with a bug before mmcv's code is reached, or after."""

    def __init__(self, error, after=False):
        super().__init__()
        self.error, self.after = error, after

    def transform(self, results):
        if self.after:
            super().transform(results)
        raise self.error


BUGS = [
    KeyError("gt_bbox"),
    TypeError("None"),
    NameError("x"),
    RuntimeError("shape"),
    AttributeError("x"),
    OSError(28, ""),
]


@pytest.mark.parametrize("error", BUGS, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize(
    "step", [Buggy, LoadMine, lambda error: LoadMine(error, after=True)], ids=["step", "load", "late"]
)
def test_bugs_stay_what_they_are(step, error, segmentation):
    reader = segmentation()
    reader.dataset.pipeline.transforms.insert(1, step(error))
    with pytest.raises(type(error)) as raised:
        reader(0)
    assert raised.value is error
