"""Necks and heads against the backbone's channels."""

import pytest
from torch import nn

from bestiary.backbones import PoolFormer
from bestiary.engine.fit import check_channels, check_class_weights, check_weights
from bestiary.errors import InputError

ARCH = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale_init=1.0)


class Part(nn.Module):
    def __init__(self, **attributes):
        super().__init__()
        self.__dict__.update(attributes)


def model(**parts):
    made = nn.Module()
    made.backbone = PoolFormer(ARCH, out_indices=parts.pop("out_indices", (0, 1, 2, 3)))
    for name, part in parts.items():
        setattr(made, name, part)
    return made


@pytest.mark.parametrize(
    "parts",
    [
        dict(neck=Part(in_channels=[8, 16, 24, 32]), decode_head=Part(in_channels=[5], in_index=[0])),
        dict(neck=Part(in_channels=[16, 32]), out_indices=(1, 3)),
        dict(decode_head=Part(in_channels=24, in_index=2), auxiliary_head=Part(in_channels=32, in_index=-1)),
        dict(decode_head=Part(in_channels=[8, 24], in_index=[0, 2])),
        dict(decode_head=Part(in_channels=80, in_index=[0, 1, 2, 3], input_transform="resize_concat")),
        dict(decode_head=nn.ModuleList([Part(in_channels=8, in_index=0), Part(in_channels=16, in_index=1)])),
        dict(head=Part(in_channels=32)),
        dict(),
    ],
)
def test_what_fits_passes(parts):
    check_channels(model(**parts))


CONCAT = dict(in_index=[0, 1, 2, 3], input_transform="resize_concat")


def head(channels, index, **more):
    return Part(in_channels=channels, in_index=index, **more)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (
            dict(neck=Part(in_channels=[256, 512])),
            r"Part: in_channels \[256, 512\] do not fit PoolFormer .*, which gives ",
        ),
        (
            dict(neck=Part(in_channels=[5])),
            r"which gives \[8, 16, 24, 32\]: set model.neck.in_channels=\[8, 16, 24, 32\]",
        ),
        (dict(neck=Part(in_channels=[8, 16, 24, 32]), out_indices=(2, 3)), r"which gives \[24, 32\]"),
        (dict(decode_head=head(32, 2)), r"gives \[24\] at in_index 2: set model.decode_head.in_channels=24"),
        (dict(auxiliary_head=head([8, 9], [0, 1])), r"set model.auxiliary_head.in_channels=\[8, 16\]"),
        (dict(decode_head=head(8, 4)), "in_index 4 is out of range"),
        (dict(decode_head=nn.ModuleList([head(8, 0), head(8, 1)])), r"set model.decode_head\[1\].in_channels=16"),
        (dict(decode_head=Part(in_channels=81, **CONCAT)), r"\[81\] do not fit"),
        (dict(head=Part(in_channels=24)), "in_channels 24 does not fit .* 32: set model.head.in_channels=32"),
    ],
)
def test_what_does_not_fit_is_said(parts, message):
    with pytest.raises(InputError, match=message):
        check_channels(model(**parts))


def test_other_backbones_pass():
    other = nn.Module()
    other.backbone, other.neck = nn.Conv2d(3, 4, 1), Part(in_channels=[9])
    check_channels(other)


def test_weights_that_are_named_must_be_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w.pth").write_text("weights")
    pretrained = dict(type="Pretrained", checkpoint="w.pth")
    model = dict(
        backbone=dict(init_cfg=pretrained),
        heads=[dict(init_cfg=dict(type="Normal", std=0.1)), dict(init_cfg=[pretrained])],
        teacher=dict(init_cfg=dict(type="Pretrained", checkpoint="timm://gone")),
    )
    check_weights(model)
    model["heads"][1]["init_cfg"] = [dict(pretrained, checkpoint="v.pth")]
    with pytest.raises(
        InputError, match="v.pth: no such checkpoint; this folder has w.pth: set model.heads.1.init_cfg"
    ):
        check_weights(model)


def test_weights_that_another_config_writes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = "work_dirs/quickstart/classifier/epoch_9.pth"
    with pytest.raises(InputError, match="`bestiary train quickstart/classifier_poolformer_digits` writes it"):
        check_weights(dict(backbone=dict(init_cfg=dict(type="Pretrained", checkpoint=checkpoint))))


def test_class_weights_must_be_as_many_as_classes():
    loss = dict(type="CrossEntropyLoss", class_weight=[0.3, 1.0, 1.0])
    model = dict(decode_head=dict(num_classes=3, loss_decode=[dict(type="DiceLoss"), loss]))
    check_class_weights(model)
    check_class_weights(dict(roi_head=dict(bbox_head=dict(num_classes=2, loss_cls=loss))))  # and the background
    model["decode_head"]["num_classes"] = 11
    with pytest.raises(InputError, match=r"model.decode_head.loss_decode.1.class_weight: 3 weights for 11 classes"):
        check_class_weights(model)
    with pytest.raises(InputError, match=r"heads.0.loss_cls.class_weight: 3 weights for 4 classes"):
        check_class_weights(dict(heads=[dict(num_classes=4, loss_cls=loss)]))
