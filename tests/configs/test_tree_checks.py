"""Every config that ships passes `bestiary check --no-data`: keys, schedule, pipelines, model."""

import datetime

import pytest
from mmengine.registry import init_default_scope

from bestiary.engine.checks import check_config
from bestiary.engine.configs import load_config, shipped_configs

NAMES = shipped_configs()
SHARE = 30  # of the tree by default, others every day: a large model takes seconds


def look(name):
    cfg = load_config(name)
    init_default_scope(cfg.get("default_scope") or "mmengine")
    assert check_config(cfg, with_data=False).mistakes == []


@pytest.mark.parametrize("name", NAMES[datetime.date.today().toordinal() % SHARE :: SHARE])
def test_has_no_mistakes(name):
    look(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_all_have_no_mistakes(name):
    look(name)
