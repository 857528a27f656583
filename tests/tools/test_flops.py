"""The command that counts a model."""

import pytest
import torch
from mmengine.config import Config

from bestiary.engine.complexity import build_meta, count_multiply_adds, count_parameters, without_weights
from bestiary.engine.configs import load_config
from bestiary.errors import InputError
from bestiary.tools.flops import customary, main

DETECTOR = "quickstart/mask_rcnn_poolformer_digits"


def test_prints_the_parts_and_the_whole(capsys):
    assert main(["davit/davit-tiny_8xb128_in1k"]) == 0
    printed = capsys.readouterr().out
    assert "at 224 x 224" in printed and "28.36" in printed and "4.52 G multiply-adds" in printed


def test_the_size_is_asked_for_where_a_config_has_none(capsys):
    assert main(["quickstart/classifier_poolformer_digits"]) == 1
    assert "give --shape HEIGHT WIDTH" in capsys.readouterr().err
    assert main(["quickstart/classifier_poolformer_digits", "--shape", "48", "48"]) == 0
    assert customary(Config(dict(default_scope="mmseg"))) == (512, 2048)


def test_a_two_stage_detector_is_counted_part_by_part():
    """Backbone and pyramid by a forward pass of their own, heads by formulas of their layers."""
    model = build_meta(load_config(DETECTOR))
    whole = count_multiply_adds(model, 128, 128)
    cells = sum((128 // stride) ** 2 for stride in (4, 8, 16, 32))
    rpn = cells * (48 * 48 * 9 + 48 * (3 + 12))
    box = 1000 * (48 * 49 * 128 + 128 * 128 + 128 * (11 + 4))
    mask = 100 * (2 * 196 * 48 * 48 * 9 + 196 * 4 * 48 * 48 + 784 * 48 * 10)
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.neck(model.backbone(torch.empty(1, 3, 128, 128, device="meta")))
    assert whole == counter.get_total_flops() // 2 + rpn + box + mask
    assert count_parameters(model) == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_queries_are_not_counted():
    model = build_meta(load_config("focalnet/mask2former_focalnet-large-fl4_16xb1-lsj-100e_coco-panoptic"))
    with pytest.raises(InputError, match="Mask2Former: its multiply-adds hang on queries"):
        count_multiply_adds(model, 64, 64)


def test_weights_are_taken_out_and_initial_values_left():
    init = dict(type="Xavier", layer="Conv2d")
    model = dict(
        pretrained="x",
        backbone=dict(init_cfg=dict(type="Pretrained", checkpoint="x")),
        heads=[dict(init_cfg=init), 3],
    )
    assert without_weights(model) == dict(backbone=dict(), heads=[dict(init_cfg=init), 3])
