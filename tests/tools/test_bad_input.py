"""Bad input to every command: one clear line on the error stream, status 1, no traceback."""

import re
import shutil

import pytest
import torch

from bestiary.tools import cli

FAST = ["--seconds", "0.01", "--threads", "1", "--size", "32", "--batch", "1"]
# Command: what it is given, and what the line says. `file/...` lies below a file, and so cannot be written.
TABLE = {
    "train": [
        (
            ["quickstart/mask_rcnn_poolformer_digit"],
            "no such config file; did you mean quickstart/mask_rcnn_poolformer",
        ),
        (["detection.py", "--work-dir", "file/run"], r"file/run: .*(Not a directory|File exists)"),
        (["detection.py", "--work-dir", "out", "--load-from", "other.pth"], "other.pth: .*(does not fit|missing)"),
        (["detection.py", "--work-dir", "out", "--resume", "gone.pth"], "gone.pth: no such checkpoint"),
    ],
    "test": [
        (["detecton.py", "other.pth"], "detecton.py: no such config file"),
        (["detection.py", "gone.pth"], "gone.pth: no such checkpoint"),
        (["detection.py", "other.pth", "--work-dir", "out"], "other.pth: .*(does not fit|missing)"),
        (["detection.py", "other.pth", "--work-dir", "file/run"], r"file/run: .*(Not a directory|File exists)"),
    ],
    "infer": [
        (["classification.py", "other.pth", "empty", "--out", "out"], "empty: no pictures in this folder"),
        (["classification.py", "other.pth", "gone.jpg", "--out", "out"], "gone.jpg: no such picture or folder"),
        (["classification.py", "other.pth", "seg/images/val", "--out", "out"], "other.pth: .*(does not fit|missing)"),
        (["classification.py", "right.pth", "seg/images/val", "--out", "file/out"], r"file/out.*: .*Not a directory"),
    ],
    "data": [
        (["digits", "file/digits"], "file/digits.*: .*Not a directory"),
        (["check", "quickstart/mask_rcnn_poolformer_digit"], "did you mean quickstart/mask_rcnn_poolformer_digits"),
        (["verify", "coco", "gone"], "gone: no such folder"),
        (["prepare", "yolo", "gone", "out"], "gone: no such file or folder"),
        (["prepare", "shards", "cls/val", "file/out"], "file/out.*: .*Not a directory"),
    ],
    "quickstart": [([], "(work_dirs|data).*: .*(Not a directory|File exists)")],
    "ablate": [
        (["--mixers", "idenity"], "--mixers idenity: the config's token_mixers are"),
        (["ablations/token_mixer_digits"], "did you mean ablations/token_mixers_digits"),
        (["--fast", "--work-dir", "file/run"], "file/run.*: .*Not a directory"),
    ],
    "convert": [
        (["right.pth", "out.pth", "--arch", "poolformr_s12"], "did you mean poolformer_s12"),
        (["other.pth", "out.pth", "--arch", "poolformer_s12"], "other.pth: .*(no known|does not fit|any known layout)"),
        (["other.pth", "other.pth", "--arch", "poolformer_s12"], "source and destination are one file"),
        (["gone.pth", "out.pth", "--arch", "poolformer_s12"], "gone.pth: no such"),
        (["whole.pth", "file/out.pth", "--arch", "shvit_s1"], "file/out.pth: could not be written"),
    ],
    "check": [(["quickstart/mask_rcnn_poolformer_digit"], "did you mean quickstart/mask_rcnn_poolformer_digits")],
    "check_configs": [(["quickstart/mask_rcnn_poolformer_digit"], "did you mean quickstart/mask_rcnn"), ([], "--all")],
    "flops": [
        (["quickstart/mask_rcnn_poolformer_digit"], "did you mean quickstart/mask_rcnn_poolformer_digits"),
        (["common.py"], "the config has no model"),
    ],
    "card": [(["davt"], "no card 'davt'"), (["--export", "empty"], "empty")],
    "compare": [
        ([], "name what to compare"),
        (["poolformr_s12"], "poolformr_s12: no backbone of ours or timm's.*did you mean poolformer_s12"),
        (["timm:resnet5o"], "timm:resnet5o: timm .* has no model 'resnet5o'; did you mean resnet50"),
        (["empty"], "empty: a folder without a run: `bestiary train` leaves the config"),
        (["quickstart/mask_rcnn_poolformer_digit"], "did you mean quickstart/mask_rcnn_poolformer_digits"),
        (["shvit_s1", "--out", "file/record.json"], "--out file/record.json: cannot be written .*name another file"),
        (["shvit_s1", "--csv", "empty"], "--csv empty: a folder; name a file in it"),
        (["shvit_s1", "--plot", "plot.jpg"], "--plot plot.jpg: a picture is written as .svg or .png"),
        (["shvit_s1", "--plot", "plot.svg", "--plot-width", "1"], "--plot-width 1: the picture needs 3.5 inches"),
        (["timm:resnet18", "--plot", "plot.svg"], "--plot: no accuracy is known of any of these"),
        (["shvit_s1", "--accuracy", "shvit_s2=75"], "'shvit_s2' is not compared; there are shvit_s1"),
        (["shvit_s1", "--accuracy", "shvit_s1=good"], "give NAME=PERCENT"),
        (["shvit_s1", "--batch", "0"], "--batch 0: give a whole number from 1 on"),
        (["shvit_s1", "--size", "4"], "shvit_s1: does not take pictures of 4 x 4: .*at least"),
        (["--from", "gone.json"], "--from gone.json: cannot be read"),
        (["--from", "coco/val.json"], "--from coco/val.json: not a record of `bestiary compare --out`"),
        (["shvit_s1", "--from", "gone.json"], "--from: it shows a record; leave the contenders out"),
    ],
    "benchmark": [
        (["backbones", "poolformr_s12", *FAST], "no backbone 'poolformr_s12'; did you mean poolformer_s12"),
        (["backbones", "poolformer_s12", "--out", "file/x.json", *FAST], "--out file/x.json: cannot be written"),
        (["backends", "nat_mimi", "--backends", "cpu", *FAST], "no backbone 'nat_mimi'; did you mean nat_mini"),
        (["backends", "nat_mini", "--backends", "cpu", "--out", "empty", *FAST], "--out empty: a folder"),
        (["kernels", "--shapes", "headlin"], "--shapes: "),
        (["kernels", "--out", "file/x.json"], "--out file/x.json: cannot be written"),
        (["kernels", "--operator", "selective_scan", "--shapes", "x"], "--shapes: no set 'x' of selective_scan"),
        (["kernels", "--operator", "selective_scan", "--out", "file/x"], "--out file/x: cannot be written"),
        (["evaluation", "--images", "0"], "--images and --instances want at least 1"),
        (["evaluation", "--out", "file/x"], "--out file/x: cannot be written"),
        (["pipeline", "--rounds", "0"], "--images and --rounds want at least 1"),
        (["pipeline", "--out", "file/x"], "--out file/x: cannot be written"),
    ],
    "report": [
        (["empty"], "empty: no run in it: neither a log"),
        (["emty"], "emty: no such folder .did you mean 'empty'"),
        (["file"], "file: a file; give the work directory"),
    ],
    "merge": [
        (["gone.sharded", "weights.safetensors"], "gone.sharded"),
        (["empty", "weights.safetensors"], "empty"),
    ],
    "chaos": [
        (["resume", "--rows", "mix-up"], "no row 'mix-up'; there are dropout, drop path"),
        (["kill", "--out", "file/x.json"], "--out file/x.json: cannot be written"),
    ],
    "list": [(["poolformr_s12"], "no backbone fits 'poolformr_s12' .near it: poolformer_s12")],
}
NO_INPUT = {"doctor"}  # it takes none that could be bad


@pytest.fixture(scope="module")
def place(tiny, tmp_path_factory):
    """A folder with the tiny data and configs, a file in the way of folders, checkpoints of another model."""
    root = tmp_path_factory.mktemp("bad") / "place"
    shutil.copytree(tiny, root)
    for name in ("file", "work_dirs", "data"):
        (root / name).write_text("in the way\n")
    (root / "empty").mkdir()
    torch.save({"state_dict": {"layer.weight": torch.zeros(3, 3)}}, root / "other.pth")
    from bestiary import build_classifier
    from bestiary.engine.configs import load_config
    from bestiary.registry import MODELS

    torch.save(
        {"state_dict": MODELS.build(load_config(str(root / "classification.py")).model).state_dict()},
        root / "right.pth",
    )
    torch.save({"state_dict": build_classifier("shvit_s1").state_dict()}, root / "whole.pth")
    return root


def test_every_command_is_in_the_table():
    assert set(TABLE) | NO_INPUT == set(cli.COMMANDS)


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [(command, *case) for command, cases in TABLE.items() for case in cases],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_one_line_and_status_one(place, monkeypatch, capsys, command, words, message):
    monkeypatch.chdir(place)
    status = cli.main([command, *words])
    err = capsys.readouterr().err
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    assert status == 1 and len(lines) == 1 and "Traceback" not in err, err
    assert re.search(message, lines[0]), lines[0]
