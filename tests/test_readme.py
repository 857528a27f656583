"""The README's commands, run in its order on small data; its Python, run as it stands."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from mmengine.config import Config

from bestiary.registry import MODELS

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
CLASSIFIER = "quickstart/classifier_poolformer_digits"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def commands() -> list[list[str]]:
    lines = [line for block in blocks("bash") for line in block.splitlines() if line.strip()]
    return [shlex.split(line, comments=True) for line in lines]


# What keeps a command small: data of a few pictures, one epoch, one mixer.
SMALL = {
    "ablate": ["--mixers", "identity"],
    "benchmark": ["--seconds", "0.5"],
    "check": ["--pictures", "1", "--cfg-options", "model.backbone.init_cfg=None"],
    "data": ["--train", "2", "--val", "2", "--copies", "1"],
    "train": [
        "--cfg-options",
        "train_cfg.max_epochs=1",
        "train_cfg.val_interval=1",
        "train_dataloader.num_workers=0",
        "train_dataloader.persistent_workers=False",
        "val_dataloader.num_workers=0",
        "val_dataloader.persistent_workers=False",
    ],
}


# ImageNet's weights would be fetched, and are a network of 12 M parameters.
OWN = ["model.backbone.init_cfg=None", "train_dataloader.batch_size=1"]


def test_the_commands_of_a_first_hour(tmp_path):
    places = {
        "CONFIG": CLASSIFIER,
        "CHECKPOINT": "work_dirs/quickstart/classifier/epoch_1.pth",
        "PICTURES": "data/digits/imagenet/val/3",
        "FOLDER": "predicted",
        "ANNOTATIONS": "data/digits/coco/annotations/instances_val2017.json",
        "IMAGES": "data/digits/coco/val2017",
    }
    ran = []
    for command in commands():
        if command[0] != "bestiary":
            continue
        name, rest = command[1], [places.get(word, word) for word in command[2:]]
        words = [sys.executable, "-m", "bestiary.tools.cli", name, *rest, *SMALL.get(name, [])]
        if name == "train" and "--data" in command:
            words += OWN
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(command)}\n{done.stdout}\n{done.stderr}"
        ran.append(name)
    assert ran == ["list", "data", "train", "test", "infer", "check", "train", "ablate", "benchmark", "benchmark"]
    assert (tmp_path / "predicted/sheet.png").is_file() and (tmp_path / "predicted/predictions.json").is_file()


def test_the_other_commands_name_what_is_there():
    others = [command for command in commands() if command[0] != "bestiary"]
    assert [command[0] for command in others] == ["tools/quickstart.sh", "tools/run_tests.sh", "pip", "torchrun"]
    for command in others:
        for word in command:
            if word.endswith((".sh", ".py", ".txt")):
                assert (ROOT / word).is_file(), word


def test_the_python_runs():
    config, *snippets = blocks("python")
    assert len(snippets) == 2
    for snippet in snippets:
        done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    assert "_base_" in config


def test_the_config_builds(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(blocks("python")[0], encoding="utf-8")
    cfg = Config.fromfile(path)
    from mmdet.registry import MODELS as MMDET
    from mmengine.registry import DefaultScope

    with DefaultScope.overwrite_default_scope("mmdet"):
        model = MMDET.build(cfg.model)
    assert type(model.backbone) is MODELS.get("PoolFormer")
    assert model.backbone.feature_info.channels() == cfg.model.neck.in_channels


def python_of(card):
    """The Python snippets of a model card."""
    return re.findall(r"```python\n(.*?)```", card.read_text(encoding="utf-8"), flags=re.DOTALL)


CARDS = [card for card in sorted((ROOT / "model_cards").glob("*.md")) if python_of(card)]


@pytest.mark.parametrize("part", range(2))
def test_the_cards_python_runs(part):
    """Each snippet with names of its own; those of half the cards in one process, which imports torch once."""
    snippets = [(card.name, index, text) for card in CARDS[part::2] for index, text in enumerate(python_of(card))]
    program = "".join(f"print({name!r}, {index})\nexec({text!r}, {{}})\n" for name, index, text in snippets)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-200:] + done.stderr
    assert all(f"{name} {index}" in done.stdout for name, index, _ in snippets)
