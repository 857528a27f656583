"""bestiary infer: pictures, JSON and sheets for the three tasks."""

import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import init_default_scope
from PIL import Image
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from shares import one_day_in

from bestiary.engine.configs import load_config
from bestiary.engine.drawing import sheet, sheet_columns
from bestiary.engine.sources import find_files, names_below
from bestiary.engine.video import Video, VideoWriter
from bestiary.errors import InputError
from bestiary.registry import MODELS
from bestiary.tools import infer as infer_tool
from bestiary.tools import test as test_tool

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


def weights_in(folder, tiny, task):
    """Untrained weights of a task in `folder`, as a file."""
    cfg = load_config(str(tiny / f"{task}.py"))
    init_default_scope(cfg.default_scope)
    torch.manual_seed(3)
    torch.save({"state_dict": MODELS.build(cfg.model).state_dict(), "meta": {}}, folder / "w.pth")
    return str(folder / "w.pth")


def command(*argv, terminal=False, columns=100):
    """`bestiary infer` as a process of its own; (status, what is printed), in a terminal both streams together."""
    argv = [sys.executable, "-m", "bestiary.tools.infer", *map(str, argv)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": str(columns), "TERM": "xterm-256color"}
    if not terminal:
        done = subprocess.run(argv, capture_output=True, text=True, env=environment)
        return done.returncode, done.stdout, done.stderr
    ours, theirs = pty.openpty()
    process = subprocess.Popen(argv, stdout=theirs, stderr=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    printed = b""
    try:
        while piece := os.read(ours, 4096):
            printed += piece
    except OSError:  # Linux's way to say that the other side is closed
        pass
    os.close(ours)
    return process.wait(), printed.decode(), ""


def in_order(objects):
    return sorted(objects, key=lambda entry: (entry["image_id"], entry["score"]))


def test_as_a_process_with_coco_results_of_the_same_precision_as_bestiary_test(tiny, tmp_path):
    weights, config = weights_in(tmp_path, tiny, "detection"), tiny / "detection.py"
    status, out, err = command(config, weights, f"{tiny}/coco/v*/*.png", "--coco", tmp_path / "r.json", "--batch", 2)
    assert status == 0, err
    assert re.search(r"infer +100%  4/4 pictures  \d+\.\d pictures/s  0 s left", out) and "\x1b" not in out
    assert "numbered as the config's test data" in out and not (tmp_path / "r.images.json").exists()
    saved = ["--save-predictions", str(tmp_path / "saved"), "--coco-backend", "pycocotools"]
    assert test_tool.main([str(config), weights, "--work-dir", str(tmp_path / "work"), *saved]) == 0
    wanted = json.loads((tmp_path / "work" / "metrics.json").read_text())["metrics"]
    truth = COCO(str(tiny / "coco" / "val.json"))
    ours, found = json.loads((tmp_path / "r.json").read_text()), truth.loadRes(str(tmp_path / "r.json"))
    assert len(ours) == 20  # 4 pictures, 5 objects each: none is left out for its score
    for kind, field in (("bbox", "bbox"), ("segm", "segmentation")):
        evaluation = COCOeval(truth, found, kind)
        evaluation.evaluate(), evaluation.accumulate(), evaluation.summarize()
        assert evaluation.stats[0] == pytest.approx(wanted[f"coco/{kind}_mAP"], abs=1e-9)
        theirs = json.loads((tmp_path / "saved" / f"results.{kind}.json").read_text())
        for one, other in zip(*map(in_order, (ours, theirs)), strict=True):
            assert (one["image_id"], one["category_id"]) == (other["image_id"], other["category_id"])
            assert one["score"] == pytest.approx(other["score"], abs=1e-5)
            assert one[field] == (pytest.approx(other[field], abs=1e-3) if kind == "bbox" else other[field])


@one_day_in(4, 8)
def test_in_a_terminal(tiny, tmp_path):
    weights = weights_in(tmp_path, tiny, "segmentation")
    given = [tiny / "segmentation.py", weights, tiny / "seg" / "images" / "val", "--out", tmp_path / "o"]
    status, printed, _ = command(*given, terminal=True)
    assert status == 0 and "\x1b[" in printed and "100%  4/4 pictures" in printed
    assert "segmentation: 4 pictures in" in printed and "Traceback" not in printed


def test_coco_results_of_pictures_that_are_not_the_data_s(run, tiny, tmp_path):
    Image.fromarray(np.full((50, 90, 3), 90, np.uint8)).save(tmp_path / "new.png")
    pictures = [str(tmp_path / "new.png"), str(tiny / "coco" / "val" / "001.png")]
    out, result = run("detection", "--coco", str(tmp_path / "r.json"), pictures=pictures)
    truth = COCO(str(tmp_path / "r.images.json"))
    assert truth.imgs[1]["file_name"] == pictures[0] and (truth.imgs[1]["width"], truth.imgs[1]["height"]) == (90, 50)
    assert [entry["name"] for entry in truth.cats.values()] == ["square", "disc"]
    found = truth.loadRes(str(tmp_path / "r.json"))
    assert len(found.getAnnIds(imgIds=[2])) == 5 and (out / result["pictures"][1]["drawn"]).is_file()
    drawn = [entry["score"] for picture in result["pictures"] for entry in picture["detections"]]
    assert min(drawn, default=1) >= 0.3 and len(drawn) < len(found.anns) or min(drawn) >= 0.3


def test_labels_and_classes_of_a_segmentor(run, tiny, tmp_path):
    plain = run("segmentation", "--labels", str(tmp_path / "plain"))[1]
    chosen = run("segmentation", "--labels", str(tmp_path / "chosen"), "--classes", "disc", "0")[1]
    assert plain["pictures"][0]["labels"] == str(tmp_path / "plain" / "000.png")
    for picture in plain["pictures"]:
        name = Path(picture["labels"]).name
        labels, some = (np.asarray(Image.open(tmp_path / kind / name)) for kind in ("plain", "chosen"))
        assert (some == np.where(np.isin(labels, (0, 2)), labels, 255)).all()
    assert not any("square" in picture["fractions"] for picture in chosen["pictures"])


def test_tta_gives_what_bestiary_test_gives(tiny, tmp_path):
    weights, config = weights_in(tmp_path, tiny, "segmentation"), str(tiny / "segmentation.py")
    saved = ["--save-predictions", str(tmp_path / "saved"), "--work-dir", str(tmp_path / "work")]
    assert test_tool.main([config, weights, "--tta", *saved]) == 0
    argv = [config, weights, str(tiny / PICTURES["segmentation"]), "--tta", "--labels", str(tmp_path / "ours")]
    assert infer_tool.main(argv) == 0
    for path in sorted((tmp_path / "ours").glob("*.png")):
        wanted = np.asarray(Image.open(next((tmp_path / "saved" / "labels").rglob(path.name))))
        assert (np.asarray(Image.open(path)) == wanted).mean() > 0.999


@pytest.mark.parametrize("task", [pytest.param("detection", marks=pytest.mark.slow), "segmentation"])
@one_day_in(4, 7)
def test_video(run, tiny, tmp_path, task):
    frames = [np.asarray(Image.open(tiny / "coco" / "val" / f"{i % 4:03d}.png").convert("RGB")) for i in range(4)]
    with VideoWriter(tmp_path / "clip.mp4", 5) as writer:
        for frame in frames:
            writer.write(frame[:63])  # an odd height
    out, result = run(task, "--score", "0.0", "--batch", "3", pictures=[str(tmp_path / "clip.mp4")])
    (record,) = result["pictures"]
    assert (record["frames"], record["fps"], record["drawn"]) == (4, 5.0, "clip.mp4")
    lines = [json.loads(line) for line in (out / record["predictions"]).read_text().splitlines()]
    assert [line["frame"] for line in lines] == list(range(4)) and lines[3]["seconds"] == 0.6
    drawn = Video(out / "clip.mp4")
    shapes = {frame.shape for frame in drawn.frames()}
    assert drawn.fps == 5.0 and drawn.count == 4 and len(shapes) == 1 and shapes.pop()[1] == 512
    assert all(("fractions" if task == "segmentation" else "detections") in line for line in lines)


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "error: name where the predictions go: --out FOLDER, --coco FILE or --labels FOLDER"),
        (["--out", "file/o"], "error: --out file/o: cannot be written (Not a directory); name another"),
        (["--coco", "file/o/r.json"], "error: --coco file/o: cannot be written"),
        (["--out", "o", "--labels", "l"], "--labels: label PNGs are of a segmentor; this model's task is class"),
        (["--out", "o", "--device", "cuda:9"], "device 'cuda:9': not on this machine"),
        (["--coco", "r.json"], "to_coco: COCO's results are of objects; this is a classification"),
    ],
)
def test_targets_and_wishes_that_cannot_be(tiny, tmp_path, monkeypatch, capsys, argv, message):
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    weights_in(tmp_path, tiny, "classification")
    assert infer_tool.main([str(tiny / "classification.py"), "w.pth", str(tiny / "cls" / "val"), *argv]) == 1
    err = capsys.readouterr().err
    assert message in err and "Traceback" not in err


def test_pictures_that_cannot_be_read_do_not_stop_the_others(tiny, tmp_path, capsys):
    weights = weights_in(tmp_path, tiny, "segmentation")
    (tmp_path / "in").mkdir()
    for name in ("a.jpg", "c.jpg"):
        (tmp_path / "in" / name).write_bytes(b"\xff\xd8 no picture")
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(tmp_path / "in" / "b.png")
    argv = [str(tiny / "segmentation.py"), weights, str(tmp_path / "in"), "--out", str(tmp_path / "o")]
    assert infer_tool.main(argv) == 1
    err = capsys.readouterr().err
    assert "a.jpg: cannot be decoded as a picture" in err and "(and 1 more like it; the other 1 are done)" in err
    assert len(json.loads((tmp_path / "o" / "predictions.json").read_text())["pictures"]) == 1


def test_videos_without_imageio(monkeypatch, tiny, tmp_path, capsys):
    weights = weights_in(tmp_path, tiny, "segmentation")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    argv = [str(tiny / "segmentation.py"), weights, str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "o")]
    assert infer_tool.main(argv) == 1
    assert "clip.mp4: cannot be decoded as a video" in capsys.readouterr().err
    monkeypatch.setattr("bestiary.engine.video.importlib.util.find_spec", lambda name: None)
    assert infer_tool.main(argv) == 1
    assert "videos take imageio and av, not installed: pip install 'bestiary[video]'" in capsys.readouterr().err


@pytest.mark.parametrize(("width", "columns"), [(None, None), (1600, 2), (700, 1), (300, 1)])
def test_a_sheet_is_as_wide_as_asked(width, columns):
    side, cells = sheet_columns(width, 2, 320)
    assert cells == columns and side == (139 - 1 if width == 300 else 320)
    if width is not None:
        picture = np.zeros((side, side, 3), np.uint8)
        made = sheet([(f"{i}.png", [picture, picture]) for i in range(5)], ["ground truth", "prediction"], cells)
        assert made.shape[1] <= width
