"""bestiary data prepare: each form in small, against what it says in numbers."""

import json
import math

import nibabel
import numpy as np
import pytest
from mmengine.dataset import Compose
from PIL import Image
from pycocotools.coco import COCO
from scipy.io import savemat

from bestiary.tools.data import main

RNG = np.random.default_rng(0)


def picture(path, size=(40, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)).save(path)
    return path


def text(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


def document(path):
    return json.loads(path.read_text())


XML = "<annotation><filename>{name}.jpg</filename>{objects}</annotation>"
OBJECT = (
    "<object><name>{}</name><difficult>{}</difficult><bndbox><xmin>{}</xmin><ymin>{}</ymin><xmax>{}</xmax>"
    "<ymax>{}</ymax></bndbox></object>"
)


def test_voc(tmp_path, capsys):
    kit = tmp_path / "VOCdevkit"
    for name in ("a", "b", "c"):
        picture(kit / "VOC2012/JPEGImages" / f"{name}.jpg")
        objects = OBJECT.format("dog", 0, 1, 1, 40, 30) + OBJECT.format("cat", 1, 3, 5, 12, 9)
        text(kit / "VOC2012/Annotations" / f"{name}.xml", XML.format(name=name, objects=objects))
    text(kit / "VOC2012/ImageSets/Main/train.txt", "a\nb\n")
    text(kit / "VOC2012/ImageSets/Main/val.txt", "c\n")
    out = tmp_path / "out"
    assert main(["prepare", "voc", str(kit), str(out)]) == 0
    said = capsys.readouterr().out
    assert "2 pictures, 4 objects" in said and f"data_prefix=dict(img={str(kit)!r})" in said
    train = document(out / "annotations/voc2012_train.json")
    assert [entry["name"] for entry in train["categories"]] == ["cat", "dog"]
    assert train["images"][0] == dict(id=1, file_name="VOC2012/JPEGImages/a.jpg", width=40, height=30)
    dog, cat = train["annotations"][:2]
    assert dog["bbox"] == [0, 0, 40, 30] and dog["area"] == 1200 and dog["iscrowd"] == 0 and dog["category_id"] == 2
    assert cat["bbox"] == [2, 4, 10, 5] and cat["iscrowd"] == 1 and cat["category_id"] == 1
    assert len(COCO(out / "annotations/voc2012_val.json").getImgIds()) == 1
    text(kit / "VOC2012/Annotations/a.xml", XML.format(name="a", objects=OBJECT.format("dog", 0, 9, 1, 4, 30)))
    assert main(["prepare", "voc", str(kit), str(out)]) == 1
    assert "a.xml: object 'dog' has the box 9, 1, 4, 30" in capsys.readouterr().err


def test_voc_without_lists_is_split_by_chance(tmp_path, capsys):
    for index in range(10):
        picture(tmp_path / "in/JPEGImages" / f"{index}.png")
        text(
            tmp_path / "in/Annotations" / f"{index}.xml",
            XML.format(name=index, objects=OBJECT.format("x", 0, 1, 1, 5, 5)),
        )
    assert main(["prepare", "voc", str(tmp_path / "in"), str(tmp_path / "out"), "--val", "0.3"]) == 0
    names = [
        [entry["file_name"] for entry in document(tmp_path / f"out/annotations/{split}.json")["images"]]
        for split in ("train", "val")
    ]
    assert list(map(len, names)) == [7, 3] and len(set(names[0] + names[1])) == 10
    (tmp_path / "in/JPEGImages/3.png").unlink()
    assert main(["prepare", "voc", str(tmp_path / "in"), str(tmp_path / "out")]) == 1
    assert "no picture of that name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "layout", ["images/train labels/train images/val labels/val", "train/images train/labels valid/images valid/labels"]
)
def test_yolo(tmp_path, capsys, layout):
    root, (images, labels, val, _) = tmp_path / "in", layout.split()
    picture(root / images / "sub/a.jpg", (200, 100))
    text(root / labels / "sub/a.txt", "1 0.5 0.5 0.25 0.5\n0 0.1 0.1 0.3 0.1 0.3 0.2 0.1 0.2\n\n")
    picture(root / val / "b.png")
    text(root / "data.yaml", "names: {0: cat, 1: dog}\nnc: 2\n")
    assert main(["prepare", "yolo", str(root), str(tmp_path / "out")]) == 0
    train, held = (document(tmp_path / f"out/annotations/{split}.json") for split in ("train", "val"))
    dog, cat = train["annotations"]
    np.testing.assert_allclose(dog["bbox"], [75, 25, 50, 50])
    np.testing.assert_allclose(cat["bbox"], [20, 10, 40, 10])
    np.testing.assert_allclose(cat["segmentation"], [[20, 10, 60, 10, 60, 20, 20, 20]])
    assert math.isclose(cat["area"], 400) and (dog["category_id"], cat["category_id"]) == (2, 1)
    assert train["images"][0]["file_name"] == f"{images}/sub/a.jpg" and len(held["images"]) == 1
    for line, message in (
        ("2 0.5 0.5 0.1 0.1", "a.txt:1: class 2, but there are the 2 names cat, dog"),
        ("0 50 50 10 10", "a.txt:1: '0 50 50 10 10': coordinates are parts"),
        ("0 0.5 0.5 0.1", "a.txt:1: 3 numbers after the class"),
        ("cat 0.5 0.5 0.1 0.1", "a.txt:1: 'cat 0.5 0.5 0.1 0.1' is not a class number"),
    ):
        text(root / labels / "sub/a.txt", line)
        assert main(["prepare", "yolo", str(root), str(tmp_path / "out")]) == 1
        assert message in capsys.readouterr().err
    (root / "data.yaml").unlink()
    assert main(["prepare", "yolo", str(root), str(tmp_path / "out")]) == 1
    assert "give --classes" in capsys.readouterr().err


def test_labelme(tmp_path, capsys):
    root = tmp_path / "in"
    picture(root / "a.jpg", (200, 100))

    def write(shapes, **more):
        content = dict(imagePath="a.jpg", imageWidth=200, imageHeight=100, shapes=shapes) | more
        text(root / "a.json", json.dumps(content))
        return main(["prepare", "labelme", str(root), str(tmp_path / "out"), "--val", "0"])

    triangle = dict(label="t", shape_type="polygon", points=[[10, 10], [30, 10], [10, 40]])
    square = dict(label="r", shape_type="rectangle", points=[[50, 60], [40, 30]], group_id=None)
    circle = dict(label="c", shape_type="circle", points=[[100, 50], [100, 70]])
    halves = [dict(triangle, group_id=3), dict(square, label="t", group_id=3)]
    assert write([triangle, square, circle, *halves]) == 0
    found = document(tmp_path / "out/annotations/train.json")
    assert [entry["name"] for entry in found["categories"]] == ["c", "r", "t"]
    t, r, c, joined = found["annotations"]
    assert t["bbox"] == [10, 10, 20, 30] and t["area"] == 300
    assert r["bbox"] == [40, 30, 10, 30] and r["area"] == 300 and len(r["segmentation"][0]) == 8
    np.testing.assert_allclose(c["bbox"], [80, 30, 40, 40], atol=1e-9)
    assert abs(c["area"] / (math.pi * 400) - 1) < 0.01
    assert joined["bbox"] == [10, 10, 40, 50] and joined["area"] == 600 and len(joined["segmentation"]) == 2
    capsys.readouterr()
    assert write([dict(triangle, shape_type="line", points=[[1, 1], [2, 2]])]) == 1
    assert "a line of 2 points, label 't', has no area" in capsys.readouterr().err
    assert write([triangle], imageWidth=100) == 1
    assert "was drawn on 100 x 100" in capsys.readouterr().err


def test_csv(tmp_path, capsys):
    picture(tmp_path / "in/a.jpg")
    picture(tmp_path / "in/b.jpg")
    table = text(
        tmp_path / "in/t.csv", "Filename,Class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,5,9\na.jpg,dog,0,0,4,4\nb.jpg,,,,,\n"
    )
    command = ["prepare", "csv", str(table), str(tmp_path / "out"), "--val", "0", "--classes", "dog", "cat"]
    assert main(command) == 0
    found = document(tmp_path / "out/annotations/train.json")
    assert [entry["name"] for entry in found["categories"]] == ["dog", "cat"] and len(found["images"]) == 2
    assert found["annotations"][0]["bbox"] == [1, 2, 4, 7] and found["annotations"][0]["category_id"] == 2
    capsys.readouterr()
    for content, message in (
        ("filename,class,xmin,ymin,xmax\n", "has no column ymax"),
        ("filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,1,9\n", "t.csv:2: box 1, 2, 1, 9: no width"),
        ("filename,class,xmin,ymin,xmax,ymax\na.jpg,cat,1,2,x,9\n", "t.csv:2: the box is not of four numbers"),
        ("filename,class,xmin,ymin,xmax,ymax\nc.jpg,cat,1,2,3,9\n", "c.jpg: no such picture"),
        ("filename,class,xmin,ymin,xmax,ymax\na.jpg,cow,1,2,3,9\n", "class 'cow' is none of dog, cat"),
    ):
        text(table, content)
        assert main(command) == 1
        assert message in capsys.readouterr().err


def test_isic(tmp_path, capsys):
    root = tmp_path / "in"
    for index in range(10):
        picture(root / "ISIC2018_Task1-2_Training_Input" / f"ISIC_{index}.jpg", (11, 6))
        mask = RNG.integers(2, size=(6, 11), dtype=np.uint8)
        path = root / "ISIC2018_Task1_Training_GroundTruth" / f"ISIC_{index}_segmentation.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(mask * 255).save(path)
    assert main(["prepare", "isic2018", str(root), str(tmp_path / "out")]) == 0
    assert "training: 7 pictures" in capsys.readouterr().out
    train, val = (sorted((tmp_path / "out/annotations" / split).iterdir()) for split in ("training", "validation"))
    assert len(train) == 7 and len(val) == 3
    assert (
        np.asarray(Image.open(train[-1]))
        == (
            np.asarray(Image.open(root / "ISIC2018_Task1_Training_GroundTruth" / f"{train[-1].stem}_segmentation.png"))
            > 0
        )
    ).all()
    assert {path.stem for path in (tmp_path / "out/images/validation").iterdir()} == {path.stem for path in val}
    assert main(["prepare", "isic2018", str(root), str(tmp_path / "out"), "--val", "0"]) == 1
    assert "ISIC2018_Task1-2_Validation_Input: no such folder" in capsys.readouterr().err
    Image.fromarray(mask * 128).save(path)
    assert main(["prepare", "isic2018", str(root), str(tmp_path / "out2")]) == 1
    assert "has values besides 0 and 255" in capsys.readouterr().err


def test_synapse(tmp_path, capsys):
    root, slices = tmp_path / "in", 3
    volumes = {}
    for case in ("0001", "0005"):
        scan = RNG.uniform(-400, 600, (8, 6, slices)).astype(np.float32)
        organs = RNG.integers(0, 14, (8, 6, slices)).astype(np.uint8)
        volumes[case] = scan, organs
        for kind, volume in (("img", scan), ("label", organs)):
            (root / kind).mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), root / kind / f"{kind}{case}.nii.gz")
    assert main(["prepare", "synapse", str(root), str(tmp_path / "out")]) == 0
    assert "train: 1 scans, 3 slices" in capsys.readouterr().out
    from mmseg.datasets import SynapseDataset

    for split, case in (("train", "0005"), ("val", "0001")):
        data = SynapseDataset(
            data_root=str(tmp_path / "out"), img_suffix=".png",
            data_prefix=dict(img_path=f"img_dir/{split}", seg_map_path=f"ann_dir/{split}"),
            pipeline=[dict(type="LoadImageFromFile"), dict(type="mmseg.LoadAnnotations")],
        )  # fmt: skip
        assert len(data) == slices
        scan, organs = volumes[case]
        for index in range(slices):
            sample = data[index]
            grey = ((scan[:, :, index].astype(np.float64) + 125) / 400).clip(0, 1)[:, ::-1] * 255
            assert np.abs(sample["img"] - grey[..., None]).max() <= 0.51
            names = {8: "aorta", 4: "gallbladder", 3: "left_kidney", 2: "right_kidney", 6: "liver", 11: "pancreas",
                     1: "spleen", 7: "stomach"}  # fmt: skip
            for value in range(14):
                wanted = data.metainfo["classes"].index(names.get(value, "background"))
                assert (sample["gt_seg_map"][organs[:, ::-1, index] == value] == wanted).all()
    (root / "label/label0005.nii.gz").write_bytes(b"damaged")
    assert main(["prepare", "synapse", str(root), str(tmp_path / "out")]) == 1
    assert "label0005.nii.gz: cannot be read" in capsys.readouterr().err


def test_full_ade20k(tmp_path, capsys):
    root = tmp_path / "in"
    names = np.array(["sky", "wall", "cup", "building, edifice"] + [f"thing{i}" for i in range(400)], dtype=object)
    root.mkdir()
    savemat(root / "index_ade20k.mat", {"index": {"objectnames": names}})
    text(root / "objectInfo150.txt", "Idx\tRatio\tName\n1\t.5\twall\n2\t.3\tbuilding, edifice\n3\t.2\tthing300\n")
    objects = RNG.choice([0, 1, 2, 3, 4, 305], size=(30, 40))
    for split, stem in (("training", "ADE_train_1"), ("validation", "ADE_val_1")):
        picture(root / "images" / split / "a/attic" / f"{stem}.jpg")
        colours = np.stack([objects // 256 * 10 + 3, objects % 256, RNG.integers(256, size=(30, 40))], -1)
        Image.fromarray(colours.astype(np.uint8)).save(root / "images" / split / "a/attic" / f"{stem}_seg.png")
    assert main(["prepare", "ade20k", str(root), str(tmp_path / "out")]) == 0
    written = np.asarray(Image.open(tmp_path / "out/annotations/training/ADE_train_1.png"))
    for number, wanted in {0: 0, 1: 0, 2: 1, 3: 0, 4: 2, 305: 3}.items():
        assert (written[objects == number] == wanted).all()
    assert (tmp_path / "out/images/validation/ADE_val_1.jpg").is_file()
    (root / "objectInfo150.txt").unlink()
    capsys.readouterr()
    assert main(["prepare", "ade20k", str(root), str(tmp_path / "out")]) == 1
    assert "copy it from ADEChallengeData2016" in capsys.readouterr().err


def test_options_that_do_not_fit(tmp_path, capsys):
    for more, message in (
        (["synapse", str(tmp_path), "out", "--val", "0.1"], "--val: synapse has its own split"),
        (["isic2017", str(tmp_path), "out", "--classes", "a"], "--classes: isic2017 has its own"),
        (["yolo", str(tmp_path), "out", "--val", "1"], "--val 1: give a part"),
        (["yolo", str(tmp_path / "none"), "out"], "none: no such file or folder"),
    ):
        assert main(["prepare", *more]) == 1
        assert message in capsys.readouterr().err


def test_pipeline_reads_what_csv_gave(tmp_path):
    """The written file goes through mmdet's own data set."""
    from mmdet.datasets import CocoDataset

    picture(tmp_path / "in/a.jpg")
    table = text(tmp_path / "in/t.csv", "image,label,x1,y1,x2,y2\na.jpg,cat,1,2,5,9\n")
    assert main(["prepare", "csv", str(table), str(tmp_path / "out"), "--val", "0"]) == 0
    data = CocoDataset(
        ann_file=str(tmp_path / "out/annotations/train.json"), data_prefix=dict(img=str(tmp_path / "in")),
        metainfo=dict(classes=("cat",)), pipeline=[],
    )  # fmt: skip
    assert data.get_data_info(0)["instances"][0]["bbox"] == [1, 2, 5, 9]
    assert isinstance(data.pipeline, Compose)
