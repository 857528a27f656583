"""Class folders: order of classes, what is refused, and through mmengine's loader with workers."""

import numpy as np
import pytest
import torch
from mmengine.dataset import ClassBalancedDataset, ConcatDataset
from mmengine.runner import Runner
from PIL import Image

from bestiary.errors import InputError
from bestiary.inputs.class_sample import ClassSample
from bestiary.inputs.image_folder import ImageFolder
from bestiary.registry import DATASETS

PIPELINE = [
    dict(type="bestiary.LoadPicture"),
    dict(
        type="bestiary.TimmTransform",
        input_size=(20, 28),
        is_training=True,
        auto_augment="rand-m9-mstd0.5-inc1",
        color_jitter=None,
    ),
    dict(type="bestiary.PackImageInputs"),
]


@pytest.fixture
def folders(tmp_path):
    """train/{10,2,cat} with 3, 2 and 4 pictures, one of them in a folder below, and files that are no pictures."""
    rng = np.random.default_rng(0)
    for name, count in (("10", 3), ("2", 2), ("cat", 4)):
        for i in range(count):
            folder = tmp_path / "train" / name / ("below" if i == 1 else "")
            folder.mkdir(parents=True, exist_ok=True)
            suffix = (".JPG", ".png", ".jpeg", ".webp")[i]
            Image.fromarray(rng.integers(0, 256, (23 + i, 31, 3), dtype=np.uint8)).save(folder / f"{i}{suffix}")
    (tmp_path / "train" / "readme.txt").write_text("not a class")
    (tmp_path / "train" / "cat" / "notes.txt").write_text("not a picture")
    (tmp_path / "train" / "cat" / ".hidden.jpg").write_text("not a picture either")
    (tmp_path / "train" / ".cache").mkdir()
    return tmp_path


def test_classes_are_the_folders_sorted_as_text(folders):
    data = DATASETS.build(dict(type="bestiary.ImageFolder", data_root=str(folders), data_prefix="train/"))
    assert data.metainfo["classes"] == ("10", "2", "cat")
    infos = [data.get_data_info(i) for i in range(len(data))]
    assert [info["gt_label"] for info in infos] == [0] * 3 + [1] * 2 + [2] * 4
    assert [info["img_path"].split("train/")[1] for info in infos[:3]] == ["10/0.JPG", "10/2.jpeg", "10/below/1.png"]
    assert [data.get_cat_ids(i) for i in (0, 4, 8)] == [[0], [1], [2]]


def test_given_classes_set_the_order(folders):
    wanted = ["cat", "10", "2"]
    (folders / "names.txt").write_text("cat\n10\n\n2\n")
    root = str(folders / "train")
    for given in (
        dict(classes=wanted),
        dict(classes=str(folders / "names.txt")),
        dict(metainfo=dict(classes=wanted, palette="kept")),
    ):
        data = ImageFolder(root, **given)
        assert data.metainfo["classes"] == ("cat", "10", "2")
        assert [data.get_data_info(i)["gt_label"] for i in range(9)] == [0] * 4 + [1] * 3 + [2] * 2
    assert data.metainfo["palette"] == "kept"
    prefixed = ImageFolder(str(folders), dict(img_path="train"), lazy_init=True, indices=5)
    prefixed.full_init()
    assert len(prefixed) == 5


def test_wrappers_take_it(folders):
    data = ImageFolder(str(folders), "train")
    assert len(ConcatDataset([data, ImageFolder(str(folders), "train")])) == 18
    # 2 of 9 are of class '2': repeated sqrt(0.4 / (2/9)), rounded up, times; the others stay once.
    assert len(ClassBalancedDataset(data, oversample_thr=0.33)) == 9 + 2


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(data_prefix="valid"), "valid: no such folder; it should hold a folder of pictures for each class"),
        (dict(data_prefix="train/cat/below"), "below: no folders in it; it should hold a folder of pictures"),
        (dict(classes=["10", "2"]), "'cat' not in classes"),
        (dict(classes=["10", "2", "cat", "dog"]), "no folder for 'dog'"),
        (dict(classes=["10", "2", "2"]), "class '2' is given more than once"),
        (dict(classes=[]), "classes: no class names in it"),
        (dict(classes="names.txt"), "names.txt: no such file; give `classes` a list of names"),
        (dict(suffixes=(".tga",)), r"train: no pictures in its class folders; looked for \.tga"),
    ],
)
def test_what_does_not_fit(folders, change, message):
    with pytest.raises(InputError, match=message):
        ImageFolder(**{"data_root": str(folders), "data_prefix": "train", **change})


def batches(folders, workers, seed, start="fork"):
    loader = dict(
        batch_size=4,
        num_workers=workers,
        sampler=dict(type="DefaultSampler", shuffle=True),
        dataset=dict(type="bestiary.ImageFolder", data_root=str(folders), data_prefix="train", pipeline=PIPELINE),
    )
    if workers:
        loader["multiprocessing_context"] = start
    return list(Runner.build_dataloader(loader, seed=seed))


def stacked(run):
    return torch.cat([torch.stack(batch["inputs"]) for batch in run])


def test_workers_give_what_their_seed_says(folders):
    runs = [batches(folders, 2, seed) for seed in (5, 5, 6)]
    first = runs[0]
    assert [len(batch["inputs"]) for batch in first] == [4, 4, 1]
    for batch in first:
        assert all(x.shape == (3, 20, 28) and x.dtype == torch.uint8 for x in batch["inputs"])
        for sample in batch["data_samples"]:
            assert isinstance(sample, ClassSample) and sample.img_shape == (20, 28) and sample.ori_shape[1] == 31
            name = sample.img_path.split("train/")[1].split("/")[0]
            assert ("10", "2", "cat")[int(sample.gt_label)] == name
    a, b, c = map(stacked, runs)
    assert torch.equal(a, b) and not torch.equal(a, c)


def test_spawned_workers_give_the_same(folders):
    assert torch.equal(stacked(batches(folders, 1, 5, "spawn")), stacked(batches(folders, 1, 5, "fork")))


def test_a_damaged_picture_is_named(folders):
    path = folders / "train" / "cat" / "2.jpeg"
    path.write_bytes(path.read_bytes()[:300])
    data = ImageFolder(str(folders), "train", pipeline=PIPELINE)
    with pytest.raises(InputError, match=rf"{path}: cannot be decoded \(.*(?i:truncated).*\); replace the file"):
        list(data)
    with pytest.raises(InputError, match=rf"{path}: cannot be decoded"):  # out of a worker, too
        batches(folders, 1, 0)
    path.write_text("<html>404</html>")
    with pytest.raises(InputError, match=rf"{path}: cannot be decoded \(cannot identify image file"):
        list(data)
    path.unlink()
    with pytest.raises(InputError, match=f"{path}: no such picture"):
        list(data)
