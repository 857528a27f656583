"""The sweep over mmdet's and mmseg's packaged configs; a few of them, others every day."""

import re

import pytest
import torch
from mmdet.structures import DetDataSample
from mmengine.structures import InstanceData
from shares import todays
from torch import nn

from bestiary.errors import InputError
from bestiary.tools import check_configs, upstream
from bestiary.tools.upstream import CASES, NOT_PLAIN, OWN_FAILS, Case, chosen_cases, maps_of, packaged_configs, problems
from bestiary.tools.upstream_families import LEFT_OUT

HEAVY = {  # ten seconds and more
    "mmdet/centripetalnet", "mmdet/cornernet", "mmdet/dcn", "mmdet/detectors", "mmdet/dino", "mmdet/double_heads",
    "mmdet/gn+ws", "mmdet/queryinst", "mmdet/res2net", "mmseg/beit", "mmseg/knet", "mmseg/mae", "mmseg/resnest",
    "mmseg/san", "mmseg/setr",
}  # fmt: skip
QUICK = [case for case in CASES if case.family not in HEAVY]


def name(case):
    return f"{case.package}/{case.path}"


@pytest.mark.parametrize("case", todays(QUICK, 60, name))
def test_a_packaged_config_with_its_own_backbone_and_ours(case):
    assert upstream.attempt(case).unexpected() == []


@pytest.mark.slow
@pytest.mark.parametrize("case", [case for case in CASES if case.family in HEAVY], ids=name)
def test_a_large_packaged_config_with_its_own_backbone_and_ours(case):
    assert upstream.attempt(case).unexpected() == []


@pytest.mark.parametrize("package", ["mmdet", "mmseg"])
def test_every_folder_is_tried_or_left_out_with_a_reason(package):
    folders = {path.name for path in packaged_configs(package).iterdir() if path.is_dir() and path.name[:2] != "__"}
    tried = {case.family.split("/")[1] for case in CASES if case.package == package}
    assert not tried & LEFT_OUT[package].keys()
    assert tried | LEFT_OUT[package].keys() == folders
    assert all(LEFT_OUT[package].values())


def test_named_failures_are_families():
    assert {*OWN_FAILS, *NOT_PLAIN} <= {case.family for case in CASES}


def test_what_is_asked_for():
    assert chosen_cases([]) == CASES
    assert {case.family for case in chosen_cases(["mmdet/fcos", "mmseg/p[os]*"])} == {
        "mmdet/fcos", "mmseg/point_rend", "mmseg/poolformer", "mmseg/psanet", "mmseg/pspnet"
    }  # fmt: skip
    with pytest.raises(InputError, match="no family fits 'fcos'"):
        chosen_cases(["fcos"])
    assert check_configs.main(["--upstream", "mmdet/focs"]) == 1


CASE = Case("mmdet", "fcos/x.py", ((8, 8),))
OWN, OURS = Case("mmdet", "convnext/x.py", ((8, 8),)), Case("mmseg", "dpt/x.py", ((8, 8),))
FAILS = RuntimeError("kaput\nand more")


@pytest.mark.parametrize(
    ("case", "own", "ours", "code", "printed"),
    [
        (CASE, None, None, 0, "1 of 1 families work, 1 with their own backbone, 1 with ours"),
        (CASE, FAILS, None, 1, "not as expected: fcos/x.py, own: RuntimeError: kaput\n"),
        (CASE, None, FAILS, 1, "not as expected: fcos/x.py, ours: RuntimeError: kaput\n"),
        (OWN, FAILS, None, 0, "1 of 1 families work, 0 with their own backbone, 1 with ours"),
        (OWN, None, None, 1, "not as expected: convnext/x.py, own: it works, though named as a failure"),
        (OURS, None, FAILS, 0, "1 of 1 families work, 1 with their own backbone, 0 with ours"),
        (OURS, None, None, 1, "not as expected: dpt/x.py, ours: it works, though named as a failure"),
        (OURS, FAILS, FAILS, 1, "0 of 1 families work"),
    ],
)
def test_the_table_and_the_status(case, own, ours, code, printed, monkeypatch, capsys):
    def trial(error):
        def run(*_):
            if error:
                raise error

        return run

    monkeypatch.setattr(upstream, "try_own", trial(own))
    monkeypatch.setattr(upstream, "try_ours", trial(ours))
    assert upstream.sweep([case]) == code
    out = capsys.readouterr().out
    assert printed in out
    named = {**OWN_FAILS, **NOT_PLAIN}.get(case.family)
    if named and (own or ours):
        assert named.split()[0] in re.sub(r"\s+", " ", out)


class Backbone(nn.Module):
    def __init__(self, *maps):
        super().__init__()
        self.maps = maps

    def forward(self, x):
        return [x.new_zeros(len(x), width, x.shape[2] // s, x.shape[3] // s) for width, s in self.maps]


@pytest.mark.parametrize(
    ("maps", "stages"),
    [
        ([(5, 4), (6, 8), (7, 16), (8, 32)], (0, 1, 2, 3)),
        ([(6, 8), (7, 16)], (1, 2)),
        ([(5, 4), (6, 8), (7, 8), (8, 8)], (0, 1, 2, 3)),  # a dilated one
        ([(7, 64)], (3,)),
    ],
)
def test_stages_that_stand_in_for_maps(maps, stages):
    model = nn.Module()
    model.backbone = Backbone(*maps)
    assert maps_of(model, (61, 64)) == (tuple(width for width, _ in maps), stages)


def test_five_maps_are_none_of_ours():
    model = nn.Module()
    model.backbone = Backbone(*[(5, 4)] * 5)
    with pytest.raises(InputError, match="no list of one to four maps"):
        maps_of(model, (64, 64))


def boxes(count, **changes):
    fields = dict(
        bboxes=torch.rand(count, 4),
        scores=torch.rand(count),
        labels=torch.zeros(count, dtype=torch.long),
        masks=torch.zeros(count, 9, 11, dtype=torch.bool),
    )
    return DetDataSample(pred_instances=InstanceData(**{**fields, **changes}))


def test_what_is_wrong_with_a_prediction():
    assert list(problems(boxes(3), (9, 11))) == []
    assert list(problems(boxes(0), (9, 11))) == ["no boxes"] and not list(problems(boxes(0), (9, 11), empty=True))
    bad = dict(bboxes=torch.full((3, 4), torch.nan), scores=torch.full((3,), torch.inf), labels=torch.full((3,), -1))
    for field, value in bad.items():
        assert len(list(problems(boxes(3, **{field: value}), (9, 11)))) == 1, field
    assert next(problems(boxes(3), (9, 12))).startswith("masks of shape (3, 9, 11)")


def test_a_loss_that_is_no_number_is_named():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone, self.head = nn.Linear(2, 2), nn.Linear(2, 1)

        def data_preprocessor(self, batch, training):
            return batch

        def parse_losses(self, losses):
            return sum(losses.values()), losses

        def forward(self, x, factor, mode):
            return dict(loss_a=self.head(self.backbone(x)).sum(), loss_b=self.head(x).sum() * factor)

    upstream.training_step(Model(), dict(x=torch.ones(1, 2), factor=1.0))
    with pytest.raises(InputError, match="loss_b: not finite"):
        upstream.training_step(Model(), dict(x=torch.ones(1, 2), factor=torch.inf))
    cut = Model()
    cut.backbone.requires_grad_(False)
    with pytest.raises(InputError, match="gradients in the backbone sum to 0,"):
        upstream.training_step(cut, dict(x=torch.ones(1, 2), factor=1.0))
