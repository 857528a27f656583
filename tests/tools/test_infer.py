"""bestiary infer: pictures, JSON and sheets for the three tasks."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask

from bestiary.engine.configs import load_config
from bestiary.engine.sources import find_files, names_below
from bestiary.errors import InputError
from bestiary.registry import MODELS
from bestiary.tools import infer as infer_tool

PICTURES = {"detection": "coco/val", "segmentation": "seg/images/val", "classification": "cls/val"}


@pytest.fixture(scope="module")
def run(tiny, tmp_path_factory):
    """infer(task, *options) -> (folder, predictions.json): untrained weights with BatchNorm as it was built."""

    def infer(task, *options, pictures=None):
        out = tmp_path_factory.mktemp("out")
        cfg = load_config(str(tiny / f"{task}.py"))
        init_default_scope(cfg.default_scope)
        torch.manual_seed(3)
        model = MODELS.build(cfg.model)
        torch.save({"state_dict": model.state_dict(), "meta": {"config": "raise SystemExit(9)"}}, out / "w.pth")
        given = [str(tiny / PICTURES[task])] if pictures is None else pictures
        argv = [str(tiny / f"{task}.py"), str(out / "w.pth"), *given, "--out", str(out / "o"), *options]
        assert infer_tool.main(argv) == 0
        return out / "o", json.loads((out / "o" / "predictions.json").read_text())

    return infer


def size(path):
    return Image.open(path).size


def test_detection(run, tiny, capsys):
    out, result = run("detection", "--score-thr", "0.0", "--sheet", "3")
    assert result["task"] == "detection" and result["classes"] == ["square", "disc"]
    assert [Path(p["file"]).name for p in result["pictures"]] == [f"{i:03d}.png" for i in range(4)]
    assert any(p["detections"] for p in result["pictures"])
    for picture in result["pictures"]:
        assert size(out / picture["drawn"]) == (512, 512)  # 64 pixels, enlarged
        for found in picture["detections"]:
            x, y, width, height = found["bbox"]
            assert 0 <= x <= x + width <= 64.01 and 0 <= y <= y + height <= 64.01
            assert found["category"] == result["classes"][found["category_id"]]
            assert coco_mask.decode(found["segmentation"]).shape == (64, 64)
    assert size(out / "sheet.png")[0] > 640  # ground truth and prediction side by side
    out, high = run("detection", "--score-thr", "1.1")
    assert not any(p["detections"] for p in high["pictures"]) and not (out / "sheet.png").exists()
    assert "detection: 4 pictures in" in capsys.readouterr().out


def test_segmentation(run, tiny):
    out, result = run("segmentation", "--sheet", "2")
    for picture in result["pictures"]:
        labels = np.asarray(Image.open(out / picture["labels"]))
        assert labels.shape == (64, 64) and labels.max() < 3
        shares = {name: (labels == i).mean() for i, name in enumerate(result["classes"]) if (labels == i).any()}
        assert picture["fractions"] == pytest.approx(shares, abs=1e-5)
        assert size(out / picture["drawn"])[0] == 512 and size(out / picture["drawn"])[1] > 512
    assert (out / "sheet.png").is_file()


def test_classification_of_chosen_files(run, tiny):
    folder = tiny / "cls" / "val"
    given = [str(folder / "disc" / "001.png"), str(folder / "square" / "001.png"), str(folder / "disc")]
    out, result = run("classification", "--top-k", "2", "--sheet", "9", pictures=given)
    assert [p["drawn"] for p in result["pictures"]] == ["001.png", "001_2.png", "000.png", "002.png", "003.png"]
    for picture in result["pictures"]:
        best, second = picture["top"]
        assert best["score"] >= second["score"] > 0 and best["category"] == result["classes"][best["label"]]
        assert (picture["height"], picture["width"]) == (64, 32)
        assert size(out / picture["drawn"])[0] == 256
    assert size(out / "sheet.png")[0] > 640


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["no_folder"], "no_folder: no such picture or folder"),
        (["empty"], "empty: no pictures in this folder; expected .avi, .bmp"),
        (["text.png"], "text.png: cannot be decoded as a picture"),
        (["cls", "--cfg-options", "model.head.num_classes=4"], "w.pth: does not fit this ImageClassifier (the class"),
        (["cls", "--cfg-options", "model.head.in_channels=16"], "LinearHead: in_channels 16 does not fit"),
        (["cls", "--cfg-options", "test_dataloader=None"], "it has no test_dataloader"),
        (["cls", "--cfg-options", "test_dataloader.dataset.pipeline=None"], "test_dataloader.dataset has no pipeline"),
    ],
)
def test_bad_input(run, tiny, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("empty").mkdir()
    Path("text.png").write_text("hello")
    Path("cls").symlink_to(tiny / "cls" / "val")
    cfg = load_config(str(tiny / "classification.py"))
    init_default_scope("bestiary")
    torch.save(MODELS.build(cfg.model).state_dict(), "w.pth")
    capsys.readouterr()
    assert infer_tool.main([str(tiny / "classification.py"), "w.pth", argv[0], "--out", "o", *argv[1:]]) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and "Traceback" not in err


def test_names_of_drawn_pictures(tmp_path):
    for name in ("a/x.jpg", "a/x.png", "b/x.png", "b/deep/y.PNG", "b/notes.txt", "b/o/old.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    found = find_files([str(tmp_path / "a"), str(tmp_path / "b")], tmp_path / "b" / "o")
    assert list(names_below(found).values()) == ["x.png", "x_2.png", "deep/y.png", "x_3.png"]
    with pytest.raises(InputError, match="--out .*: the pictures come from that folder; name another"):
        find_files([str(tmp_path / "a")], tmp_path / "a")
