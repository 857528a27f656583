"""The bundled digits: deterministic, split cleanly, and the three layouts say the same."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as rle
from pycocotools.coco import COCO

from bestiary.errors import InputError
from bestiary.inputs import digits
from bestiary.inputs.digits import cut_out, draw_digit, draw_scene, make_digits, split_digits

TINY = dict(train=3, val=2, layouts=("coco", "ade20k"))


def content(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


def test_two_runs_give_the_same_bytes_and_another_seed_others(tmp_path):
    a, b, c = (tmp_path / name for name in "abc")
    for root, seed in ((a, 3), (b, 3), (c, 4)):
        assert make_digits(root, seed=seed, **TINY)["written"]
    assert content(a) == content(b)
    assert content(a).keys() == content(c).keys()
    for name in ("coco/train2017/000000.jpg", "ade20k/annotations/validation/000001.png"):
        assert content(a)[name] != content(c)[name]


def test_first_scenes_of_a_small_set_are_those_of_a_large_one():
    a, b = draw_scene(0, "train", 5), draw_scene(0, "train", 6)
    assert np.array_equal(a.image, draw_scene(0, "train", 5).image)
    assert not np.array_equal(a.image, b.image)


def test_splits_share_no_digit_and_keep_the_classes_shares():
    labels = digits._ink_and_labels()[1]
    train, val = split_digits()["train"], split_digits()["val"]
    assert len(labels) == 1797 and np.array_equal(np.sort(np.concatenate([train, val])), np.arange(1797))
    for label in range(10):
        share = (labels[train] == label).sum() / (labels == label).sum()
        assert 0.79 < share < 0.81


@pytest.mark.parametrize("size", [64, 128, 150])
def test_scenes_are_as_promised(size):
    for split in ("train", "val"):
        pool, border = set(split_digits()[split].tolist()), 480
        for number in range(12):
            scene = draw_scene(7, split, number, size)
            assert scene.image.shape == (size, size, 3) and scene.image.dtype == np.uint8
            assert 2 <= len(scene.digits) <= 5
            x, y, side = scene.crop
            assert (x + side <= border) if split == "train" else (border <= x <= 640 - side)
            assert 0 <= y <= 427 - side
            together = np.sum([digit.mask for digit in scene.digits], axis=0)
            assert together.max() == 1  # a pixel belongs to one digit
            for digit in scene.digits:
                assert digit.index in pool and digit.label == digits._ink_and_labels()[1][digit.index]
                rows = np.flatnonzero(digit.mask.any(1))
                assert 0.1 * size < rows[-1] - rows[0] + 1 <= 0.5 * size


def test_boxes_overlap_little():
    worst = 0.0
    for number in range(40):
        boxes = []
        for digit in draw_scene(1, "train", number).digits:
            rows, columns = np.flatnonzero(digit.mask.any(1)), np.flatnonzero(digit.mask.any(0))
            boxes.append((rows[0], columns[0], rows[-1] + 1, columns[-1] + 1))
        for i, a in enumerate(boxes):
            for b in boxes[:i]:
                height, width = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
                smaller = min((c[2] - c[0]) * (c[3] - c[1]) for c in (a, b))
                worst = max(worst, max(height, 0) * max(width, 0) / smaller)
    assert 0 < worst <= 0.06  # a digit that lies below another may have lost a row of its box


def test_mask_is_where_the_picture_changed():
    """The background, drawn again by the same numbers, differs from the scene in the digit's pixels alone."""
    index = int(split_digits()["val"][17])
    scene = draw_digit(2, "val", index, 0)
    rng = np.random.default_rng((digits.VERSION, 2, 1, 1, index, 0))
    background, photo, crop = digits._background(rng, "val", 48, (40, 160))
    changed = (background != scene.image).any(-1)
    assert (photo, crop) == (scene.photo, scene.crop)
    assert not changed[~scene.digits[0].mask].any()
    assert changed[scene.digits[0].mask].mean() > 0.99


def test_digits_stand_out_from_what_is_around_them():
    weights = np.array([0.55, 0.75, 0.35])
    apart = []
    for index in split_digits()["val"][:60]:
        scene = draw_digit(0, "val", int(index), 0)
        mask = scene.digits[0].mask
        ink, around = np.median(scene.image[mask], axis=0), scene.image[~mask].astype(float)
        apart.append(np.quantile(np.linalg.norm((around - ink) * weights, axis=-1), 0.25))
    assert np.quantile(apart, 0.05) > 50


def test_glyph_fills_its_box():
    for index in (0, 500, 1796):
        glyph = cut_out(index, 33.0)
        assert all(glyph.mask.any(axis)[[0, -1]].all() for axis in (0, 1))
        assert glyph.mask.shape == glyph.ink.shape and abs(glyph.mask.shape[0] - 33) <= 5
        assert glyph.ink[glyph.mask].min() >= 0.42 > glyph.ink[~glyph.mask].max()


def test_layouts_agree(small_digits):
    for split, coco, ade in (("train", "train2017", "training"), ("val", "val2017", "validation")):
        api = COCO(small_digits / "coco" / "annotations" / f"instances_{coco}.json")
        pool = set(split_digits()[split].tolist())
        assert [c["name"] for c in api.loadCats(api.getCatIds())] == list("0123456789")
        assert api.getCatIds() == list(range(1, 11)) and len(api.imgs) == (6 if split == "train" else 4)
        for image in api.imgs.values():
            name = image["file_name"]
            picture = (small_digits / "coco" / coco / name).read_bytes()
            assert picture == (small_digits / "ade20k" / "images" / ade / name).read_bytes()
            labels = np.asarray(Image.open(small_digits / "ade20k" / "annotations" / ade / name.replace("jpg", "png")))
            drawn = np.zeros_like(labels)
            for entry in api.imgToAnns[image["id"]]:
                mask = api.annToMask(entry).astype(bool)
                rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
                box = [columns[0], rows[0], columns[-1] - columns[0] + 1, rows[-1] - rows[0] + 1]
                assert entry["bbox"] == box and entry["area"] == mask.sum() == rle.area(entry["segmentation"])
                assert (
                    entry["digit"] in pool
                    and entry["iscrowd"] == 0
                    and isinstance(entry["segmentation"]["counts"], str)
                )
                drawn[mask] = entry["category_id"]
            assert np.array_equal(drawn, labels) and 2 <= len(api.imgToAnns[image["id"]]) <= 5
            assert (
                Image.open(small_digits / "coco" / coco / name).size == (image["width"], image["height"]) == (128, 128)
            )


def test_class_folders_hold_each_digit(tmp_path, monkeypatch):
    few = {split: indices[::25] for split, indices in split_digits().items()}
    monkeypatch.setattr(digits, "split_digits", lambda: few)
    record = make_digits(tmp_path / "d", copies=2, crop_size=33, layouts=("imagenet",))
    labels = digits._ink_and_labels()[1]
    for split, copies in (("train", 2), ("val", 1)):
        folder = tmp_path / "d" / "imagenet" / split
        assert sorted(os.listdir(folder)) == list("0123456789")
        files = sorted(folder.rglob("*.jpg"))
        assert sorted(f.stem for f in files) == sorted(f"{i:04d}_{k}" for i in few[split] for k in range(copies))
        assert all(int(f.parent.name) == labels[int(f.stem[:4])] for f in files)
        assert record["crops"][split] == len(files) and Image.open(files[0]).size == (33, 33)
    assert not (tmp_path / "d" / "coco").exists()


def test_the_same_request_does_nothing_and_another_must_say_overwrite(digits_copy):
    request = dict(train=6, val=4, layouts=("ade20k", "coco"))  # the order does not count
    before = {p: p.stat().st_mtime_ns for p in digits_copy.rglob("*")}
    assert not make_digits(digits_copy, **request)["written"]
    assert before == {p: p.stat().st_mtime_ns for p in digits_copy.rglob("*")}
    with pytest.raises(InputError, match=r"made with train 6 \(asked for: 5\); add --overwrite"):
        make_digits(digits_copy, **{**request, "train": 5})
    assert make_digits(digits_copy, **{**request, "train": 5}, overwrite=True)["written"]
    assert len(list((digits_copy / "coco" / "train2017").iterdir())) == 5
    assert [p.name for p in digits_copy.parent.iterdir()] == ["digits"]  # nothing is left beside it


def test_strangers_files_are_not_overwritten(digits_copy, tmp_path):
    (digits_copy / "my_notes.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other things .*my_notes.txt"):
        make_digits(digits_copy, **TINY, overwrite=True)
    (tmp_path / "x" / "coco").mkdir(parents=True)
    with pytest.raises(InputError, match=f"not empty, and without {digits.RECORD}"):
        make_digits(tmp_path / "x", **TINY, overwrite=True)
    (tmp_path / "x" / digits.RECORD).write_text("[1, ")
    with pytest.raises(InputError, match="made with another request; add --overwrite"):
        make_digits(tmp_path / "x", **TINY)


def test_an_interrupted_run_leaves_what_was_there(digits_copy, tmp_path):
    def stop(done, total):
        if done == 4:
            raise KeyboardInterrupt

    before = content(digits_copy)
    for root in (digits_copy, tmp_path / "new" / "digits"):
        with pytest.raises(KeyboardInterrupt):
            make_digits(root, **TINY, overwrite=True, progress=stop)
        assert [p for p in root.parent.iterdir() if p.name.startswith(".")] == []
    assert content(digits_copy) == before and not (tmp_path / "new" / "digits").exists()


def test_progress_counts_to_the_end(tmp_path):
    seen = []
    make_digits(tmp_path / "a", **TINY, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(i, 5) for i in range(1, 6)]


def test_an_empty_folder_is_filled(tmp_path):
    make_digits(tmp_path, **TINY)
    assert json.loads((tmp_path / digits.RECORD).read_text())["scenes"] == dict(train=3, val=2)


@pytest.mark.parametrize(
    "wrong, message",
    [
        (dict(train=0), "train must be at least 1, got 0"),
        (dict(size=20), "size must be at least 64, got 20"),
        (dict(seed=-1), "seed must be at least 0, got -1"),
        (dict(layouts=("voc",)), r"no layout \['voc'\]; there are coco, ade20k, imagenet"),
        (dict(layouts=()), "no layout asked for"),
    ],
)
def test_arguments_out_of_range(tmp_path, wrong, message):
    with pytest.raises(InputError, match=message):
        make_digits(tmp_path / "d", **wrong)
    assert not (tmp_path / "d").exists()


def test_places_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="file: is a file; name a folder"):
        make_digits(tmp_path / "file", **TINY)
    with pytest.raises(InputError, match="cannot be made: Not a directory"):
        make_digits(tmp_path / "file" / "digits", **TINY)
