"""MultiLabelImages: every form of its file gives the same, and what is wrong is said."""

import json

import numpy as np
import pytest
from PIL import Image

from bestiary.errors import InputError
from bestiary.inputs.multi_label import MultiLabelImages, read_label_sets

LISTS = {"a.jpg": ["cat", "dog"], "b.jpg": [], "sub/c.png": ["eel", "cat", "cat"]}


@pytest.fixture
def folder(tmp_path):
    for name in LISTS:
        (tmp_path / "pictures" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4)).save(tmp_path / "pictures" / name)
    return tmp_path


def write(folder, kind):
    if kind == "json":
        (folder / "a.json").write_text(json.dumps(LISTS))
        return "a.json"
    if kind == "csv":
        rows = "".join(f"{name},{'; '.join(found)}\n" for name, found in LISTS.items())
        (folder / "a.csv").write_text("picture,labels\n" + rows)
        return "a.csv"
    images = [dict(id=number, file_name=name) for number, name in enumerate(LISTS, 10)]
    categories = [dict(id=2, name="cat"), dict(id=5, name="dog"), dict(id=7, name="eel")]
    ids = {entry["name"]: entry["id"] for entry in categories}
    objects = [
        dict(image_id=number, category_id=ids[name])
        for number, found in enumerate(LISTS.values(), 10)
        for name in found
    ]
    (folder / "coco.json").write_text(json.dumps(dict(images=images, annotations=objects, categories=categories)))
    return "coco.json"


@pytest.mark.parametrize("kind", ["json", "csv", "coco"])
def test_every_form_gives_the_same(kind, folder):
    data = MultiLabelImages(write(folder, kind), str(folder), "pictures")
    order = ("cat", "dog", "eel")
    assert tuple(data.metainfo["classes"]) == order and len(data) == 3
    for entry, (name, found) in zip(map(data.get_data_info, range(3)), LISTS.items(), strict=True):
        assert entry["img_path"] == str(folder / "pictures" / name)
        assert np.asarray(entry["gt_score"]).tolist() == [float(k in found) for k in order]
    assert data.get_cat_ids(2) == [0, 2]
    turned = MultiLabelImages(write(folder, kind), str(folder), "pictures", classes=["eel", "dog", "cat"])
    assert turned.get_data_info(2)["gt_score"].tolist() == [1, 0, 1]
    with pytest.raises(InputError, match="class '(cat|dog)' is not in classes"):
        MultiLabelImages(write(folder, kind), str(folder), "pictures", classes=["eel", "ant"])
    (folder / "pictures/b.jpg").unlink()
    with pytest.raises(InputError, match="b.jpg: no such picture, but .* names it"):
        MultiLabelImages(write(folder, kind), str(folder), "pictures")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "picture,labels\na.jpg,cat,dog\n", "line 2 has 3 cells; it wants two"),
        ("b.csv", "a.jpg,cat\na.jpg,dog\n", "a.jpg is in lines 1 and 2"),
        ("c.csv", "picture,labels\n", "no pictures in it"),
        ("a.json", "[1]", "it wants JSON"),
        ("b.json", "{", "not JSON"),
        ("c.json", '{"images": [{"id": 1}], "annotations": [], "categories": []}', "not COCO's instances: KeyError"),
    ],
)
def test_bad_files(name, text, message, tmp_path):
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError) as caught:
        read_label_sets(tmp_path / name)
    assert message in str(caught.value) and name in str(caught.value)
    with pytest.raises(InputError, match="no such file"):
        read_label_sets(tmp_path / "none.csv")
