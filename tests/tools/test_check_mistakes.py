"""The bank of mistakes: each is reported in one line that names the key or the file, and the fix."""

import ast
import copy
import shutil
import subprocess
import sys

import mmengine_alone
import pytest
from mistakes import load, make
from mistakes_bank import BANK
from mmengine.registry import init_default_scope

from bestiary.engine.checks import check_config


def looked(cfg):
    init_default_scope(cfg.default_scope)
    return check_config(cfg, ["train", "val"])


@pytest.fixture
def root(tiny, tmp_path):
    for name in ("coco", "seg", "cls"):
        shutil.copytree(tiny / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize("task", ["detection", "segmentation", "classification"])
def test_what_is_right_passes(task, root):
    cfg = load(task, root)
    before = copy.deepcopy(cfg.to_dict())
    found = looked(cfg)
    assert found.mistakes == [] and set(found.data) == {"train", "val"}
    assert cfg.to_dict() == before, "a check changes nothing"


@pytest.mark.parametrize("mistake", BANK, ids=lambda mistake: mistake.name)
def test_is_reported(mistake, root):
    mistakes = looked(make(mistake, root)).mistakes
    assert mistakes, "nothing was found"
    told = [line for line in mistakes if mistake.names in line and mistake.fix in line]
    assert told, mistakes
    assert "\n" not in told[0]


def test_there_are_sixty():
    assert len({mistake.name for mistake in BANK}) == len(BANK) >= 60


@pytest.mark.slow
def test_mmengine_alone_is_silent_on_many(tiny):
    """The card's figures, to a few: which of the mistakes a training without the checks runs through."""
    words = [sys.executable, mmengine_alone.__file__, str(tiny)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = ast.literal_eval(done.stdout.splitlines()[-1])
    assert sum(counts.values()) == len(BANK)
    assert counts[mmengine_alone.SILENT] + counts[mmengine_alone.ENDLESS] > 35, done.stdout
    assert counts[mmengine_alone.NAMED] < 60, done.stdout
