"""The bank of mistakes: each is reported in one line that names the key or the file, and the fix."""

import copy
import shutil

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
