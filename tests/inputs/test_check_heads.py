"""head_classes: which heads are compared with the data, and that no config of mmdet and mmseg is refused."""

import importlib
from pathlib import Path

import pytest
from mmengine.config import Config

from bestiary.inputs.check_heads import head_classes
from bestiary.inputs.checks import data_sets


def test_heads_are_found_wherever_mmdet_and_mmseg_hold_them():
    model = dict(
        rpn_head=dict(num_classes=1),
        bbox_head=dict(num_classes=4),
        mask_head=dict(num_classes=5),
        auxiliary_head=[dict(num_classes=6), dict(type="STDCHead", num_classes=2)],
        panoptic_head=dict(num_things_classes=7, num_stuff_classes=8),
        detector=dict(roi_head=[dict(bbox_head=dict(num_classes=9), bbox_roi_extractor=dict(num_classes=0))]),
    )
    assert head_classes(model) == {
        "model.bbox_head.num_classes": 4,
        "model.mask_head.num_classes": 5,
        "model.auxiliary_head.0.num_classes": 6,
        "model.panoptic_head.num_things_classes + num_stuff_classes": 15,
        "model.detector.roi_head.0.bbox_head.num_classes": 9,
    }
    assert head_classes(dict(bbox_head=dict(num_classes=256), language_model=dict())) == {}
    assert head_classes(dict(decode_head=dict(num_classes=20), text_encoder=dict())) == {}


@pytest.mark.slow
@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_heads_of_packaged_configs_are_for_their_data(package):
    """Of the configs that mmdet and mmseg ship, none is refused for its class count, and most are compared."""
    root = Path(importlib.import_module(package).__file__).parent / ".mim" / "configs"
    compared = total = 0
    for path in sorted(root.glob("[!_]*/*.py")):
        try:
            cfg = Config.fromfile(path)
        except (ImportError, FileNotFoundError):  # 17 ask for mmpretrain, 4 for a base that is not shipped
            continue
        config = (cfg.get("train_dataloader") or {}).get("dataset") or {}
        cfg.default_scope = package
        for data in data_sets(config, "train_dataloader.dataset", cfg):
            data.check_heads(cfg.get("model"))
            compared += bool(data.classes and head_classes(cfg.get("model") or {}))
            total += 1
    assert compared > 0.8 * total > 400
