"""TarShards: what ImageFolder gives, out of tar files."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from bestiary.errors import InputError
from bestiary.inputs.image_folder import ImageFolder
from bestiary.inputs.prepare.shards import write_shards
from bestiary.inputs.tar_shards import TarShards, read_index
from bestiary.tools.data import main

PIPELINE = [dict(type="bestiary.LoadPicture")]


@pytest.fixture
def folders(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(23):
        path = tmp_path / "in/train" / "cba"[index % 3] / f"{index}.{'jpg' if index % 2 else 'PNG'}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(256, size=(5, 7 + index, 3), dtype=np.uint8)).save(path)
    return tmp_path / "in"


def test_the_same_pictures_and_classes(folders, tmp_path, capsys):
    lines = write_shards(folders / "train", tmp_path / "out", "train", size=2000)
    assert "23 pictures of 3 classes" in lines[0]
    shards = TarShards(str(tmp_path / "out"), "train-*.tar", pipeline=PIPELINE)
    plain = ImageFolder(str(folders), "train", pipeline=PIPELINE)
    assert len(shards) == len(plain) == 23 and len(shards.shards) > 2
    assert shards.metainfo["classes"] == plain.metainfo["classes"] == ("a", "b", "c")
    contents = [{(np.asarray(x["img"]).tobytes(), x["gt_label"]) for x in data} for data in (shards, plain)]
    assert contents[0] == contents[1] and len(contents[0]) == 23
    assert shards.get_cat_ids(3) == [shards.get_data_info(3)["gt_label"]]
    assert main(["prepare", "shards", str(folders), str(tmp_path / "by_command")]) == 0
    assert "train-*.tar" in capsys.readouterr().out
    assert len(TarShards(str(tmp_path / "by_command"), "train-*.tar")) == 23


def test_shards_of_others(tmp_path):
    """Keys with folders, suffixes of several parts, other members: as WebDataset writes them."""
    picture = io.BytesIO()
    Image.new("RGB", (4, 3), (1, 2, 3)).save(picture, "png")
    members = {
        "n01/x_1.cls": b"1\n",
        "n01/x_1.png": picture.getvalue(),
        "n01/x_1.seg.png": b"other",
        "n01/x_1.json": b"{}",
        "n02/x_1.png": picture.getvalue(),
        "n02/x_1.cls": b"0",
    }
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    data = TarShards(str(tmp_path), "a.tar", classes=("x", "y"), pipeline=PIPELINE)
    assert [entry["gt_label"] for entry in data] == [1, 0]
    assert data[0]["img"].size == (4, 3) and data[0]["img"].getpixel((0, 0)) == (1, 2, 3)
    with pytest.raises(InputError, match="of class number 1, but there are 1 names"):
        TarShards(str(tmp_path), "a.tar", classes=("x",))


def test_notes_are_kept_and_made_anew(folders, tmp_path):
    write_shards(folders / "train", tmp_path / "out", "train")
    shard = str(tmp_path / "out/train-000000.tar")
    first = read_index(shard)
    notes = tmp_path / "out/train-000000.tar.index.json"
    kept = json.loads(notes.read_text())
    kept["pictures"] = kept["pictures"][:2]
    notes.write_text(json.dumps(kept))
    assert len(read_index(shard)) == 2  # read from the notes
    notes.write_text(notes.read_text()[:20])
    assert read_index(shard) == first  # half of a file
    write_shards(folders / "train", tmp_path / "out", "train", seed=1)
    assert read_index(shard) != first and len(read_index(shard)) == 23


def test_bad_shards(folders, tmp_path):
    with pytest.raises(InputError, match=r"train-\*.tar: no tar files of that name; make them"):
        TarShards(str(tmp_path), "train-*.tar")
    write_shards(folders / "train", tmp_path / "out", "train")
    shard = tmp_path / "out/train-000000.tar"
    content = shard.read_bytes()
    shard.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="write it again"):
        read_index(str(shard))
    with tarfile.open(shard, "w") as tar:
        tar.addfile(tarfile.TarInfo("a.png"))
    with pytest.raises(InputError, match="a.png has no a.cls"):
        read_index(str(shard))
    (tmp_path / "out/classes.txt").write_text("others\n")
    with pytest.raises(InputError, match="lists other classes"):
        write_shards(folders / "train", tmp_path / "out", "val")
