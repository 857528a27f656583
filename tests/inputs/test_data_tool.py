"""bestiary data: what it prints, and its exit status."""

import shutil

from bestiary.tools.data import main

CONFIG = """
default_scope = "mmseg"
train_dataloader = dict(
    dataset=dict(
        type="BaseSegDataset",
        data_root={root!r},
        metainfo=dict(classes=("background", *"0123456789")),
        data_prefix=dict(img_path="images/training", seg_map_path="annotations/training"),
        pipeline=[dict(type="LoadImageFromFile"), dict(type="LoadAnnotations"), dict(type="PackSegInputs")],
    )
)
val_dataloader = dict(dataset=dict(type="SomeoneElsesDataset"))
"""


def test_digits_says_what_it_wrote(tmp_path, capsys):
    command = ["digits", str(tmp_path / "d"), "--train", "3", "--val", "2", "--layouts", "coco"]
    assert main(command) == 0
    assert "d: wrote 3 + 2 scenes (coco); training + validation" in capsys.readouterr().out
    assert main(command) == 0
    assert "d: is there already, nothing done: 3 + 2 scenes (coco)" in capsys.readouterr().out
    assert main([*command, "--seed", "1"]) == 1
    said = capsys.readouterr()
    assert said.err.startswith("error: ") and "add --overwrite" in said.err and not said.out
    assert main([*command, "--seed", "1", "--overwrite"]) == 0
    assert "wrote" in capsys.readouterr().out


def test_check_prints_the_classes_or_the_mistake(small_digits, tmp_path, capsys):
    root = shutil.copytree(small_digits / "ade20k", tmp_path / "ade")
    (tmp_path / "config.py").write_text(CONFIG.format(root=str(root)))
    assert main(["check", str(tmp_path / "config.py")]) == 0
    out = capsys.readouterr().out
    assert f"train: 6 pictures in {root}/images/training" in out and "background" in out and "pixels" in out
    assert "val: of a kind that is not looked into" in out
    (root / "annotations" / "training" / "000003.png").unlink()
    assert main(["check", str(tmp_path / "config.py")]) == 1
    assert "no label image for 1 of 6 pictures" in capsys.readouterr().err
    (tmp_path / "empty.py").write_text("a = 1")
    assert main(["check", str(tmp_path / "empty.py")]) == 1
    assert "has no train_dataloader" in capsys.readouterr().err
