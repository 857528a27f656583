"""The command that tries configs without their data; a share of those that ship, others every day."""

import datetime
import re

import pytest

from bestiary.engine.configs import find_config, load_config, shipped_configs
from bestiary.tools.check_configs import chosen, main, try_config
from bestiary.tools.shrink import shrink

NAMES = [name for name in shipped_configs() if not name.endswith("_digits") and not name.startswith("ablations/")]
HEADS = "mask-rcnn", "retinanet", "cascade-mask-rcnn", "faster-rcnn", "atss", "sparse-rcnn", "upernet", "fpn"
HEAVY = "dino-", "mask2former_"  # seconds each


def kind(name):
    family, stem = name.split("/")
    return family, stem.split("_")[0] if "_in1k" not in stem else "classifier"


# One of every family with every head: the first of its kind, or another as days go by.
KINDS = {}
for one in NAMES:
    KINDS.setdefault(kind(one), []).append(one)
DAY = datetime.date.today().toordinal()
TODAYS = [names[DAY % len(names)] for names in KINDS.values() if not names[0].split("/")[1].startswith(HEAVY)]


@pytest.mark.parametrize("name", TODAYS[DAY % 3 :: 3])
def test_a_share_of_the_tree_trains_and_predicts(name):
    try_config(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_tree_trains_and_predicts(name):
    try_config(name)


def test_the_kinds_are_there():
    assert {head for _, head in KINDS} >= {"classifier", *HEADS}


def test_what_a_config_says_beside_sizes_stays():
    cfg = shrink(load_config("dinat/cascade-mask-rcnn_dinat-base_fpn_3x_coco"))
    assert cfg.model.backbone.dilations == "detection" and cfg.model.backbone.arch == "base"
    assert "init_cfg" not in cfg.model.backbone
    assert tuple(cfg.model.backbone.dims) == tuple(cfg.model.neck.in_channels) == (32, 64, 96, 128)
    assert cfg.model.roi_head.bbox_head[0].num_shared_convs == 4


def test_a_config_that_fails_is_named_and_counted(tmp_path, capsys):
    good, bad = tmp_path / "good.py", tmp_path / "bad.py"
    good.write_text('_base_ = "bestiary::x"\n'.replace("bestiary::x", str(find_config("shvit/shvit-s1_8xb256_in1k"))))
    bad.write_text(f'_base_ = "{good}"\nmodel = dict(head=dict(in_channels=77))\n')
    assert main([str(good), str(bad)]) == 1
    printed = re.sub(r"\s+", " ", capsys.readouterr().out)
    assert "1 of 2 configs train and predict" in printed and "in_channels 77" in printed


def test_what_is_asked_for():
    everything = chosen([], True)
    assert set(NAMES) < set(everything)
    assert chosen(["shvit"], False) == [name for name in shipped_configs() if name.startswith("shvit/")]
    assert main([]) == 1
