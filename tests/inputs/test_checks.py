"""check_inputs: healthy data passes and is counted; each mistake is met by its message."""

import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from bestiary import configs
from bestiary.errors import InputError
from bestiary.inputs import check_files
from bestiary.inputs.check_heads import head_classes
from bestiary.inputs.checks import check_inputs
from bestiary.inputs.digits import CLASSES

QUICKSTART = sorted((Path(configs.__file__).parent / "quickstart").glob("*.py"))
MASKS = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations", with_bbox=True, with_mask=True)]
LABELS = [dict(type="LoadImageFromFile"), dict(type="LoadAnnotations")]


@pytest.fixture(scope="module")
def small_folders(tmp_path_factory):
    """Class folders a, b, c of noise, 3 pictures each in train, 2 in val; not to be changed."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    for split, count in (("train", 3), ("val", 2)):
        for name in "abc":
            (root / split / name).mkdir(parents=True)
            for i in range(count):
                noise = rng.integers(0, 256, (17, 23, 3), dtype=np.uint8)
                Image.fromarray(noise).save(root / split / name / f"{i}.png")
    return root


@pytest.fixture
def folders(small_folders, tmp_path):
    return shutil.copytree(small_folders, tmp_path / "folders")


@pytest.fixture
def root(digits_copy):
    return digits_copy


def coco(root, split="train", heads=10, **changes):
    """A config of the COCO layout with one split."""
    folder = f"{split}2017"
    dataset = dict(
        type="CocoDataset",
        data_root=str(root / "coco"),
        metainfo=dict(classes=CLASSES),
        ann_file=f"annotations/instances_{folder}.json",
        data_prefix=dict(img=folder),
        pipeline=MASKS,
    )
    roi_head = dict(bbox_head=[dict(num_classes=heads)] * 2, mask_head=dict(num_classes=heads))
    model = dict(rpn_head=dict(num_classes=1), roi_head=roi_head)
    return Config({"default_scope": "mmdet", "model": model, f"{split}_dataloader": dict(dataset=dataset | changes)})


def seg(root, split="train", heads=11, **changes):
    """A config of the ADE20K layout with one split."""
    folder = dict(train="training", val="validation")[split]
    dataset = dict(
        type="BaseSegDataset",
        data_root=str(root / "ade20k"),
        metainfo=dict(classes=("background", *CLASSES)),
        data_prefix=dict(img_path=f"images/{folder}", seg_map_path=f"annotations/{folder}"),
        pipeline=LABELS,
    )
    model = dict(decode_head=dict(num_classes=heads), auxiliary_head=[dict(num_classes=heads)])
    return Config({"default_scope": "mmseg", "model": model, f"{split}_dataloader": dict(dataset=dataset | changes)})


def cls(root, heads=3, **changes):
    """A config of class folders with the splits train and val."""
    data = {
        f"{split}_dataloader": dict(
            dataset=dict(type="bestiary.ImageFolder", data_root=str(root), data_prefix=split) | changes
        )
        for split in ("train", "val")
    }
    return Config(dict(default_scope="bestiary", model=dict(head=dict(num_classes=heads)), **data))


def rewrite(path, change):
    """Apply `change` to the content of a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def annotations(root, split="train"):
    return root / "coco" / "annotations" / f"instances_{split}2017.json"


def fails(cfg, *parts):
    """check_inputs refuses, in one line that has all of `parts`."""
    with pytest.raises(InputError) as caught:
        check_inputs(cfg)
    message = str(caught.value)
    assert "\n" not in message
    for part in parts:
        assert str(part) in message, message


def test_coco_is_counted(small_digits):
    report = check_inputs(coco(small_digits))["train"]
    entries = json.loads(annotations(small_digits).read_text())["annotations"]
    expected = {name: sum(e["category_id"] == i + 1 for e in entries) for i, name in enumerate(CLASSES)}
    assert report["classes"] == expected and sum(expected.values()) == len(entries) > 10
    assert (report["pictures"], report["unit"], report["where"]) == (6, "objects", str(annotations(small_digits)))


def test_label_pixels_are_counted(small_digits):
    report = check_inputs(seg(small_digits, "val"))["val"]
    files = (small_digits / "ade20k" / "annotations" / "validation").glob("*.png")
    counts = np.bincount(np.concatenate([np.asarray(Image.open(path)).ravel() for path in files]), minlength=11)
    assert list(report["classes"].values()) == counts.tolist() and counts.sum() == 4 * 128 * 128
    assert list(report["classes"]) == ["background", *CLASSES]
    assert (report["pictures"], report["unit"]) == (4, "pixels")


def test_folders_are_counted(folders):
    (folders / "train" / "a" / "0.png").unlink()
    report = check_inputs(cls(folders))
    assert report["train"]["classes"] == dict(a=2, b=3, c=3) and report["val"]["classes"] == dict(a=2, b=2, c=2)
    assert (report["train"]["pictures"], report["train"]["unit"]) == (8, "pictures")


@pytest.mark.parametrize("path", QUICKSTART, ids=lambda path: path.stem)
def test_quickstart_configs_pass(path, small_digits, tmp_path):
    cfg = Config.fromfile(path)
    layout = Path(cfg.train_dataloader.dataset.data_root).name
    root = small_digits / layout
    if layout == "imagenet":
        root = tmp_path
        for split in ("train", "val"):
            for name in CLASSES:
                (root / split / name).mkdir(parents=True)
                shutil.copy(small_digits / "coco" / "train2017" / "000000.jpg", root / split / name)
    changes = {f"{split}_dataloader.dataset.data_root": f"{root}/" for split in ("train", "val", "test")}
    if layout == "coco":
        changes |= {f"{split}_evaluator.ann_file": str(annotations(small_digits, "val")) for split in ("val", "test")}
    cfg.merge_from_dict(changes)
    report = check_inputs(cfg)
    assert list(report) == ["train", "val", "test"] and report["val"] == report["test"] != report["train"]
    key = next(iter(head_classes(cfg.model)))
    cfg.merge_from_dict({key: 80})
    fails(cfg, f"{key} = 80", f"set {key}={len(report['train']['classes'])}")


def test_quickstart_configs_name_the_command_that_makes_the_data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for path in QUICKSTART:
        fails(Config.fromfile(path), "data/digits/", "no such", "`bestiary data digits data/digits`")


@pytest.mark.parametrize("make", [coco, seg])
def test_folder_missing_or_empty(root, make):
    fails(make(root, data_root=str(root / "nothing")), root / "nothing", "no such data folder", "set train_dataloader")
    prefix = dict(img="gone", img_path="gone", seg_map_path="annotations/training")
    fails(make(root, data_prefix=prefix), "gone: no such picture folder", "train_dataloader.dataset.data_prefix.img")
    (root / "file").write_text("x")
    fails(make(root, data_root=str(root / "file")), "a file; expected a data folder")
    for part in ("coco/train2017", "ade20k/images/training"):
        shutil.rmtree(root / part)
        (root / part).mkdir()
    fails(make(root), "the picture folder is empty", "train_dataloader.dataset.data_root")


def test_annotation_file_missing_or_not_json(root):
    fails(coco(root, ann_file="no.json"), root / "coco" / "no.json", "no such annotation file", "dataset.ann_file")
    fails(coco(root, ann_file=""), "has no ann_file; set train_dataloader.dataset.ann_file")
    fails(coco(root, ann_file="annotations"), "a folder; expected the annotation file")
    path = annotations(root)
    path.write_text(path.read_text()[:-100])
    fails(coco(root), path, "not JSON", "set train_dataloader.dataset")
    path.write_bytes(b"\xff\xfe\x00 broken")
    fails(coco(root), path, "not JSON")


def test_annotation_file_of_another_format(root):
    path = annotations(root)
    whole = path.read_text()

    def broken(change):
        path.write_text(whole)
        rewrite(path, change)

    path.write_text("[1, 2]")
    fails(coco(root), path, "holds a list; expected COCO's instances JSON")
    broken(lambda content: content.pop("annotations"))
    fails(coco(root), path, "has no list 'annotations'")
    broken(lambda content: content["annotations"][3].pop("bbox"))
    fails(coco(root), "annotations[3] has no bbox")
    broken(lambda content: content["annotations"][2].update(bbox=[1, 2, 3]))
    fails(coco(root), "annotations[2] has the bbox [1, 2, 3]; expected [x, y, width, height]")
    broken(lambda content: content.update(images=[]))
    fails(coco(root), "names no pictures")
    broken(lambda content: content["annotations"][1].update(id=content["annotations"][0]["id"]))
    fails(coco(root), "ids in 'annotations' occur more than once: 1")
    broken(lambda content: content["annotations"][4].pop("segmentation"))
    fails(coco(root), "have no 'segmentation' (ids 5)", "with_mask=False")
    assert check_inputs(coco(root, pipeline=MASKS[:1]))["train"]["pictures"] == 6


def test_test_data_may_lack_annotations(root):
    rewrite(annotations(root, "val"), lambda content: content.pop("annotations"))
    cfg = coco(root, "val", test_mode=True)
    assert sum(check_inputs(cfg)["val"]["classes"].values()) == 0
    fails(coco(root, "val"), "has no list 'annotations'")


def test_pictures_that_are_not_there(root):
    for number in range(5):
        (root / "coco" / "train2017" / f"{number:06d}.jpg").unlink()
    names = "'000000.jpg', '000001.jpg', '000002.jpg' and 2 more"
    fails(coco(root), annotations(root), "names 5 of 6 pictures that are not in", names, "data_prefix.img")


def test_pictures_that_cannot_be_decoded(root):
    folder = root / "coco" / "train2017"
    whole = (folder / "000003.jpg").read_bytes()
    (folder / "000003.jpg").write_bytes(whole[: len(whole) // 2])
    fails(coco(root), folder / "000003.jpg", "cannot be decoded", "truncated", "1 of 6 pictures", "replace")
    (folder / "000001.jpg").write_bytes(b"")
    fails(coco(root), folder / "000001.jpg", "the file is empty", f"also {folder / '000003.jpg'}", "2 of 6 pictures")
    (folder / "000001.jpg").write_bytes(b"<html>not found</html>")
    fails(coco(root), folder / "000001.jpg", "not a picture")
    other = root / "ade20k" / "images" / "training" / "000005.jpg"
    other.write_bytes(b"nothing")
    fails(seg(root), other, "cannot be decoded")


def test_damaged_png(folders):
    path = folders / "val" / "b" / "1.png"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 40] = bytes(40)
    path.write_bytes(content)
    fails(cls(folders), path, "cannot be decoded", "1 of 6 pictures")


def test_pictures_of_another_size(root):
    path = root / "coco" / "train2017" / "000002.jpg"
    Image.open(path).resize((64, 96)).save(path)
    fails(coco(root), path, "is 64 x 96", annotations(root), "says 128 x 128")

    def turn(content):
        content["images"][2].update(width=96, height=64)
        for entry in content["annotations"]:
            if entry["image_id"] == content["images"][2]["id"]:
                entry["segmentation"]["size"] = [64, 96]

    rewrite(annotations(root), turn)
    check_inputs(coco(root))  # turned: as a note on its orientation may say


def test_a_sample_is_said_to_be_one(root, monkeypatch):
    source = root / "coco" / "train2017" / "000000.jpg"
    for name in range(100):
        shutil.copy(source, root / "ade20k" / "images" / "training" / f"{name:06d}.jpg")
        label = root / "ade20k" / "annotations" / "training" / f"{name:06d}.png"
        if not label.exists():
            shutil.copy(root / "ade20k" / "annotations" / "training" / "000000.png", label)
    monkeypatch.setattr(check_files, "SECONDS", 0.0)
    report = check_inputs(seg(root))["train"]
    assert [note for note in report["notes"] if note.startswith("pictures: looked at 64 of 100 files")]
    assert [note for note in report["notes"] if note.startswith("label images: looked at 64 of 100 files")]
    assert report["pictures"] == 100 and sum(report["classes"].values()) == 64 * 128 * 128


def test_classes_that_the_file_does_not_know(root):
    unnamed = coco(root, heads=80)
    del unnamed.train_dataloader.dataset["metainfo"]
    classes = "metainfo=dict(classes=('0', '1', '2', '3', '4', '5', '6', '7', '8', '9'))"
    fails(unnamed, annotations(root), "'person', 'bicycle', 'car' and 77 more", "CocoDataset's own", classes)
    shifted = coco(root, metainfo=dict(classes=(*CLASSES, "ten")), heads=11)
    fails(shifted, "no categories for 'ten' of the 11 classes of train_dataloader.dataset.metainfo.classes")
    fails(coco(root, metainfo=dict(classes=CLASSES[::-1])), "in another order", classes)
    fails(coco(root, metainfo=dict(classes="012")), "is the string '012'", "classes=('012',)")
    (root / "names.txt").write_text("\n".join(CLASSES) + "\n")
    assert list(check_inputs(coco(root, metainfo=dict(classes=str(root / "names.txt"))))["train"]["classes"]) == [
        *CLASSES
    ]


def test_a_choice_of_classes_is_in_order(small_digits):
    report = check_inputs(coco(small_digits, metainfo=dict(classes=("3", "8")), heads=2))["train"]
    assert list(report["classes"]) == ["3", "8"] and any("left out: '0', '1'" in note for note in report["notes"])


def test_nothing_left(root):
    path = annotations(root)
    rewrite(path, lambda content: [entry.update(category_id=77) for entry in content["annotations"]])
    fails(coco(root), path, "have a category_id that is not in the file's categories", "correct them")
    rewrite(path, lambda content: [entry.update(category_id=1, bbox=[5, 5, 0, 9]) for entry in content["annotations"]])
    fails(coco(root), path, "annotations is left", "is of the classes of train_dataloader.dataset.metainfo.classes")
    rewrite(
        path, lambda content: [entry.update(category_id=1, bbox=[500, 5, 9, 9]) for entry in content["annotations"]]
    )
    fails(coco(root), path, "annotations is left", "box inside its picture")


def test_heads_for_other_numbers_of_classes(small_digits, small_folders):
    names = [f"model.roi_head.{name}.num_classes" for name in ("bbox_head.0", "bbox_head.1", "mask_head")]
    fails(coco(small_digits, heads=80), *(f"{n} = 80" for n in names), *(f"{n}=10" for n in names), "10 classes")
    assert "rpn_head" not in head_classes(coco(small_digits).model)
    names = ["model.decode_head.num_classes", "model.auxiliary_head.0.num_classes"]
    fails(seg(small_digits, heads=150), *(f"{n}=11" for n in names), "dataset.metainfo.classes")
    fails(cls(small_folders, heads=1000), "model.head.num_classes = 1000", "model.head.num_classes=3", small_folders)


def test_label_images_missing(root):
    folder = root / "ade20k" / "annotations" / "training"
    for number in (0, 4):
        (folder / f"{number:06d}.png").unlink()
    fails(seg(root), folder, "no label image for 2 of 6 pictures", "'000000.png', '000004.png'", "seg_map_suffix")
    fails(seg(root, seg_map_suffix="_labels.png"), "no label image for 6 of 6", "(now '_labels.png')")
    assert check_inputs(seg(root, pipeline=LABELS[:1]))["train"]["pictures"] == 6  # nothing reads the labels
    shutil.rmtree(folder)
    fails(seg(root), folder, "no such label folder", "data_prefix.seg_map_path")
    fails(seg(root, img_suffix=".tif"), "no pictures *.tif in it", "img_suffix")


def test_list_of_pictures(root):
    listing = root / "ade20k" / "some.txt"
    listing.write_text("000001\n000003\n")
    assert check_inputs(seg(root, ann_file="some.txt"))["train"]["pictures"] == 2
    listing.write_text("000001\nabsent\n")
    fails(seg(root, ann_file="some.txt"), listing, "names 1 of 2 pictures", "'absent.jpg'")
    listing.write_text("")
    fails(seg(root, ann_file="some.txt"), listing, "names no pictures")
    fails(seg(root, ann_file="other.txt"), "other.txt: no such list of pictures")


def test_labels_outside_of_the_classes(root):
    folder = root / "ade20k" / "annotations" / "training"
    values = np.asarray(Image.open(folder / "000002.png")).copy()
    values[:2, :3], values[4, 4] = 255, 37
    Image.fromarray(values).save(folder / "000002.png")
    fails(seg(root), folder / "000002.png", "has the label 37", "labels 0 to 10, 255 for 'ignore'", "found outside: 37")
    values[4, 4] = 255
    Image.fromarray(values).save(folder / "000002.png")
    assert sum(check_inputs(seg(root))["train"]["classes"].values()) == 6 * 128 * 128 - 7
    # Ten classes and 0 for none: right with reduce_zero_label, and advised without.
    ten = dict(metainfo=dict(classes=CLASSES), heads=10)
    fails(seg(root, **ten), "has the label 10", "labels 0 to 9", "set train_dataloader.dataset.reduce_zero_label=True")
    counts = check_inputs(seg(root, **ten, reduce_zero_label=True))["train"]["classes"]
    whole = check_inputs(seg(root))["train"]["classes"]
    assert counts == {name: whole[name] for name in CLASSES}
    values[4, 4] = 11
    Image.fromarray(values).save(folder / "000002.png")
    fails(seg(root, **ten, reduce_zero_label=True), "has the label 11", "labels 1 to 10")


def test_classes_of_ade20k_are_known(root):
    cfg = seg(root, type="ADE20KDataset", heads=150)
    del cfg.train_dataloader.dataset["metainfo"]
    report = check_inputs(cfg)["train"]  # its own 150 classes, and reduce_zero_label
    own = check_inputs(seg(root))["train"]["classes"]
    assert (
        len(report["classes"]) == 150 and report["classes"]["wall"] == own["0"] and report["classes"]["sky"] == own["2"]
    )
    cfg.model.decode_head.num_classes = 19
    fails(cfg, "model.decode_head.num_classes = 19", "150 classes", "ADE20KDataset's own")


def test_label_images_that_do_not_fit(root):
    path = root / "ade20k" / "annotations" / "training" / "000001.png"
    labels = Image.open(path)
    labels.resize((64, 128), Image.Resampling.NEAREST).save(path)
    fails(seg(root), path, "is 64 x 128, its picture", "is 128 x 128")
    labels.convert("RGB").save(path)
    fails(seg(root), path, "has 3 channels; expected one number a pixel")
    path.write_bytes(b"text")
    fails(seg(root), path, "cannot be decoded")
    for each in path.parent.iterdir():
        Image.new("L", (128, 128), 255).save(each)
    fails(seg(root), path.parent, "every pixel looked at is 'ignore'", "reduce_zero_label")


def test_class_folders_that_do_not_fit(folders):
    fails(
        cls(folders / "none"), folders / "none" / "train", "no such data folder", "train_dataloader.dataset.data_root"
    )
    shutil.copytree(folders / "val" / "a", folders / "val" / "d")
    fails(cls(folders, classes=("a", "b", "c")), folders / "val", "'d' not in classes")
    shutil.rmtree(folders / "val" / "a")
    other = f"{folders / 'val'}: other classes than {folders / 'train'}: no folder for 'a'; only there: 'd'"
    fails(cls(folders), other)
    for picture in (folders / "train").rglob("*.png"):
        picture.unlink()
    fails(cls(folders), folders / "train", "no pictures in its class folders")
    shutil.rmtree(folders / "train")
    (folders / "train").mkdir()
    fails(cls(folders), folders / "train", "the data folder is empty")


def test_class_folders_without_a_picture_are_noted(folders):
    for picture in (folders / "train" / "b").iterdir():
        picture.unlink()
    report = check_inputs(cls(folders))["train"]
    assert report["classes"]["b"] == 0 and report["notes"] == ["classes without a picture: 'b'"]


def test_evaluators(root):
    cfg = coco(root, "val")
    cfg.val_evaluator = dict(type="CocoMetric", ann_file=str(root / "gone.json"))
    fails(cfg, root / "gone.json", "no such annotation file", "set val_evaluator.ann_file")
    cfg.val_evaluator = [dict(type="Other"), dict(type="CocoMetric", ann_file=str(root / "gone.json"))]
    fails(cfg, "set val_evaluator.1.ann_file")
    cfg.val_evaluator = dict(type="CocoMetric", ann_file=str(annotations(root, "val")))
    check_inputs(cfg)
    other = shutil.copy(annotations(root, "val"), root / "other.json")
    rewrite(Path(other), lambda content: content["images"].pop())
    cfg.val_evaluator.ann_file = str(other)
    fails(cfg, other, "has not 1 of the 4 pictures of", annotations(root, "val"), "set val_evaluator.ann_file=")
    rewrite(annotations(root, "val"), lambda content: content["annotations"][0].pop("iscrowd"))
    cfg.val_evaluator.ann_file = str(annotations(root, "val"))
    fails(cfg, "1 annotations have no 'iscrowd' (ids 1)", "add iscrowd=0")


def test_wrappers_are_looked_through(root):
    plain = coco(root)
    data = plain.train_dataloader.dataset
    single = check_inputs(plain)["train"]["classes"]
    for name in ("RepeatDataset", "ClassBalancedDataset", "mmdet.MultiImageMixDataset"):
        plain.train_dataloader.dataset = dict(type=name, dataset=data)
        assert check_inputs(plain)["train"]["classes"] == single
    plain.train_dataloader.dataset = dict(
        type="ConcatDataset", datasets=[data, dict(type="RepeatDataset", times=2, dataset=data)]
    )
    report = check_inputs(plain)["train"]
    assert report["classes"] == {name: 2 * count for name, count in single.items()} and report["pictures"] == 12
    (root / "coco" / "train2017" / "000000.jpg").unlink()
    fails(plain, "names 1 of 6 pictures", "set train_dataloader.dataset.datasets.0.data_root")


def test_what_is_left_alone(root):
    unknown = coco(root, type="SomeonesDataset", data_root="/nowhere")
    assert check_inputs(unknown) == {}
    assert check_inputs(coco(root, type="not.there.Dataset")) == {}
    assert check_inputs(coco(root, data_root="s3://bucket/coco")) == {}
    assert check_inputs(coco(root, backend_args=dict(backend="petrel"), data_root="/nowhere")) == {}
    assert check_inputs(Config(dict(model=dict()))) == {}
    remote = coco(root)
    remote.val_evaluator = dict(type="CocoMetric", ann_file="s3://bucket/val.json")
    assert list(check_inputs(remote)) == ["train"]


def test_other_data_sets_of_mmengine_are_checked_for_their_files(root):
    fails(coco(root, type="CocoPanopticDataset", ann_file="gone.json"), "gone.json: no such annotation file")
    fails(coco(root, type="VOCDataset", data_root="/nowhere"), "/nowhere: no such data folder")
    cfg = coco(root, type="VOCDataset", metainfo=dict(classes=("a", "b")))
    fails(cfg, "model.roi_head.mask_head.num_classes=2")


def test_only_the_splits_that_are_asked_for(root):
    cfg = coco(root)
    cfg.val_dataloader = dict(dataset=dict(type="CocoDataset", data_root="/nowhere", ann_file="x"))
    assert list(check_inputs(cfg, ["train"])) == ["train"]
    fails(cfg, "/nowhere")


def test_1200_pictures_take_a_few_seconds(root):
    path, folder = annotations(root), root / "coco" / "train2017"
    content = json.loads(path.read_text())
    images, boxes = content["images"], content["annotations"]
    for number in range(6, 1200):
        name = f"{number:06d}.jpg"
        shutil.copy(folder / images[number % 6]["file_name"], folder / name)
        images.append(dict(images[number % 6], id=number + 1, file_name=name))
        boxes += [dict(boxes[number % 3], id=len(boxes) + 1, image_id=number + 1)]
    path.write_text(json.dumps(content))
    began = time.monotonic()
    report = check_inputs(coco(root))["train"]
    assert time.monotonic() - began < 5
    assert report["pictures"] == 1200
    assert all(re.match(r"pictures: looked at \d+ of 1200 files|classes without", note) for note in report["notes"])
