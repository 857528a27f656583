"""bestiary data verify: small copies of the released layouts, whole, and with parts missing or damaged."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest
from PIL import Image

from bestiary.errors import InputError
from bestiary.inputs.released import LAYOUTS, checksums, examine_all
from bestiary.inputs.released.parts import ClassFolders, CocoFile, Files, NameList, Pairs, RealLabels
from bestiary.tools.data import main

RNG = np.random.default_rng(0)


def picture(path, size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(256, size=(size[1], size[0], 3), dtype=np.uint8)).save(path)


def labels(path, low, high, size=(9, 7)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(low, high + 1, size=(size[1], size[0]), dtype=np.uint8)).save(path)


def small(part):
    """A part with few files, of the same paths, names and classes."""
    if isinstance(part, ClassFolders):
        classes = part.classes[:3]
        return dataclasses.replace(part, classes=classes, count=6, each=(2, 2))
    if isinstance(part, CocoFile):
        return dataclasses.replace(part, images=3, annotations=4)
    if isinstance(part, RealLabels):
        return dataclasses.replace(part, count=6, labelled=5)
    if isinstance(part, NameList) or (isinstance(part, Files) and part.count is not None):
        return dataclasses.replace(part, count=3)
    return part


def write(root, parts):
    """The files that the parts ask for; LVIS's and COCO's pictures by numbers."""
    for part in parts:
        path, number = root / part.path, 0
        if isinstance(part, ClassFolders):
            for name in part.classes:
                for _ in range(2):
                    number += 1
                    picture(path / name / (part.name or "{}.jpg").format(number))
        elif isinstance(part, Files):
            for index in range(1, 4):
                if "2017" in part.path and "ISIC" not in part.path:
                    picture(path / f"{index:012d}.jpg")
                elif part.suffix == ".nii.gz":
                    path.mkdir(parents=True, exist_ok=True)
                    (path / f"img{index:04d}.nii.gz").write_bytes(b"x")
                else:
                    file = path / (part.name.format(index) if part.name else f"a{index}{part.suffix}")
                    masks = part.labels is not None or "segmentation" in part.suffix
                    labels(file, *(part.labels or (0, 1))) if masks else picture(file)
        elif isinstance(part, CocoFile):
            urls = [f"http://x/train2017/{i:012d}.jpg" if "lvis" in part.path else None for i in (1, 2, 3)]
            names = [dict(coco_url=url) if url else dict(file_name=f"{i:012d}.jpg") for i, url in enumerate(urls, 1)]
            images = [dict(id=i, width=9, height=7, **name) for i, name in enumerate(names, 1)]
            boxes = [dict(id=i, image_id=1, category_id=1, bbox=[0, 0, 3, 3], area=9) for i in range(1, 5)]
            categories = [dict(id=i, name=name) for i, name in enumerate(part.classes, 1)]
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(dict(images=images, annotations=boxes, categories=categories)))
        elif isinstance(part, NameList):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("".join(f"a{i} 1\n" for i in range(1, 4)))
            for folder, suffix in part.of:
                for i in range(1, 4):
                    file = root / folder / f"a{i}{suffix}"
                    file.parent.mkdir(parents=True, exist_ok=True)
                    file.write_text("<a/>") if suffix == ".xml" else picture(file)
        elif isinstance(part, RealLabels):
            path.write_text(json.dumps([[1, 2], [], [3], [4], [5], [999]]))


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_whole_copy_has_no_problems_and_a_small_one_is_counted(name, tmp_path):
    parts = [small(part) for part in LAYOUTS[name]()]
    write(tmp_path, parts)
    for finding in examine_all(str(tmp_path), parts):
        assert not finding.problems, finding
    # Against the release's own numbers the same files are too few, and every required part says so.
    for part, finding in zip(parts, examine_all(str(tmp_path), LAYOUTS[name]()), strict=True):
        if not isinstance(part, Pairs) and getattr(part, "count", 1) is not None:
            assert finding.problems, finding


def problems(root, parts):
    return [line for finding in examine_all(str(root), parts) for line in finding.problems]


def broken(name, tmp_path, spoil):
    parts = [small(part) for part in LAYOUTS[name]()]
    write(tmp_path, parts)
    spoil(tmp_path)
    return problems(tmp_path, parts)


def test_missing_pictures_are_named(tmp_path):
    found = broken("ade20k", tmp_path, lambda root: (root / "images/training/ADE_train_00000002.jpg").unlink())
    assert len(found) == 1 and "1 of 3 files are missing: 'ADE_train_00000002.jpg'" in found[0]
    assert found[0].startswith(str(tmp_path / "images/training"))


def test_pictures_of_another_set_are_named(tmp_path):
    found = broken("ade20k", tmp_path, lambda root: picture(root / "images/validation/cat.jpg"))
    assert len(found) == 1 and "not of the release: 'cat.jpg'" in found[0]


def test_a_damaged_picture_is_named(tmp_path):
    def cut(root):
        path = root / "val2017/000000000003.jpg"
        picture(path, (300, 200))
        path.write_bytes(path.read_bytes()[:500])

    (found,) = broken("coco", tmp_path, cut)
    assert "000000000003.jpg: cannot be decoded" in found and "get it again" in found


def test_label_values_outside_of_the_classes(tmp_path):
    found = broken(
        "ade20k", tmp_path, lambda root: labels(root / "annotations/training/ADE_train_00000001.png", 151, 151)
    )
    assert len(found) == 1 and "ADE_train_00000001.png: has the labels 151, outside of 0 to 150" in found[0]


def test_a_missing_folder_says_what_it_holds_or_how_it_is_made(tmp_path):
    parts = LAYOUTS["cityscapes"]()
    found = problems(tmp_path, parts)
    assert any("leftImg8bit/train: missing; it holds 2,975 *_leftImg8bit.png" in line for line in found)
    assert any("createTrainIdLabelImgs" in line for line in found)


def test_an_annotation_file_of_another_release(tmp_path):
    def other(root):
        path = root / "annotations/instances_val2017.json"
        document = json.loads(path.read_text())
        document["categories"][4]["name"] = "aeroplane"
        del document["annotations"][0]
        document["images"][1]["file_name"] = "gone.jpg"
        path.write_text(json.dumps(document))

    found = broken("coco", tmp_path, other)
    assert any("3 annotations, the release has 4" in line for line in found)
    assert any("'aeroplane' stands where the release has 'airplane'" in line for line in found)
    assert any("1 of 3 pictures are missing: 'gone.jpg'" in line for line in found)


def test_imagenets_folders(tmp_path):
    def spoil(root):
        folders = sorted((root / "val").iterdir())
        next(folders[0].iterdir()).unlink()
        folders[1].rename(root / "val" / "n99999999")

    found = broken("imagenet", tmp_path, spoil)
    assert any("1 class folders are missing" in line for line in found)
    assert any("'n99999999'" in line and "no class" in line for line in found)
    assert any("1 pictures, the release has 2" in line for line in found)
    assert any("pictures are missing: 'ILSVRC2012_val_" in line for line in found)


def test_lists_and_their_files(tmp_path):
    found = broken("voc", tmp_path, lambda root: (root / "VOC2012/Annotations/a2.xml").unlink())
    assert found and all("VOC2012/Annotations: 1 files that VOC2012/ImageSets" in line for line in found)


def test_pairs(tmp_path):
    def spoil(root):
        folder = root / "ISIC2018_Task1_Training_GroundTruth"
        (folder / "a1_segmentation.png").rename(folder / "b1_segmentation.png")

    found = broken("isic2018", tmp_path, spoil)
    assert any("a1_segmentation.png" in line and "missing" in line for line in found)
    assert any("b1.jpg" in line for line in found)


def test_real_labels(tmp_path):
    part = RealLabels("real.json", count=3, labelled=2)
    (tmp_path / "real.json").write_text("[[1], [], [1000]]")
    assert "class number 1000 is not of 0 to 999" in problems(tmp_path, [part])[0]
    (tmp_path / "real.json").write_text("{}")
    assert "not a list of lists" in problems(tmp_path, [part])[0]


def test_the_command(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(LAYOUTS, "ade20k", lambda layout=LAYOUTS["ade20k"]: [small(part) for part in layout()])
    root = tmp_path / "ade"
    write(root, LAYOUTS["ade20k"]())
    sums = tmp_path / "sums.json"
    assert main(["verify", "ade20k", str(root), "--write-checksums", str(sums)]) == 0
    assert "nothing is missing" in capsys.readouterr().out
    assert main(["verify", "ade20k", str(root), "--checksums", str(sums)]) == 0
    path = root / "images/training/ADE_train_00000001.jpg"
    path.write_bytes(path.read_bytes() + b"\0")
    (root / "images/training/ADE_train_00000002.jpg").unlink()
    picture(root / "images/training/ADE_train_00000002.jpg")
    assert main(["verify", "ade20k", str(root), "--checksums", str(sums)]) == 1
    said = capsys.readouterr().err
    assert "ADE_train_00000001.jpg" in said and "bytes" in said
    assert main(["verify", "ade20k", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_archives_are_held_to_their_published_md5(tmp_path, monkeypatch):
    (tmp_path / "ILSVRC2012_img_val.tar").write_bytes(b"not it")
    (found,) = checksums.damaged_archives(str(tmp_path))
    assert "ILSVRC2012_img_val.tar: its MD5 is " + hashlib.md5(b"not it").hexdigest() in found
    monkeypatch.setitem(checksums.ARCHIVES, "ILSVRC2012_img_val.tar", hashlib.md5(b"not it").hexdigest())
    assert checksums.damaged_archives(str(tmp_path)) == []


def test_checksums_of_another_kind(tmp_path):
    (tmp_path / "a.json").write_text("[]")
    with pytest.raises(InputError, match="is not what"):
        checksums.compare_checksums(str(tmp_path), str(tmp_path / "a.json"))
