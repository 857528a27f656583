"""timm's models as backbones: ResNet, MobileNet, Swin (channels last) and ViT (one stride)."""

import pytest
import timm
import torch
from mmengine.config import Config
from mmengine.registry import init_default_scope
from torch import nn

from bestiary.backbones import TimmBackbone
from bestiary.errors import InputError
from bestiary.registry import MODELS

SWIN = ("swin_tiny_patch4_window7_224", dict(img_size=64))
MODELS_TRIED = [  # name, arguments, levels returned by default, channels, strides
    ("resnet18", {}, (1, 2, 3, 4), [64, 128, 256, 512], [4, 8, 16, 32]),
    ("mobilenetv3_small_050", {}, (1, 2, 3, 4), [8, 16, 24, 288], [4, 8, 16, 32]),
    (*SWIN, (0, 1, 2, 3), [96, 192, 384, 768], [4, 8, 16, 32]),
    ("test_vit", dict(img_size=64), (2, 3, 4, 5), [64] * 4, [16] * 4),
]
LEVELS = {"test_resnet": 5, "mobilenetv3_small_050": 5, "test_convnext": 4, "test_vit": 6}


def picture(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("name", "kwargs", "levels", "channels", "strides"), MODELS_TRIED, ids=lambda x: str(x)[:12])
def test_the_last_four_levels_by_default(name, kwargs, levels, channels, strides):
    backbone = TimmBackbone(name, **kwargs).eval()
    assert backbone.out_indices == levels
    assert backbone.feature_info.channels() == channels and backbone.feature_info.reduction() == strides
    maps = backbone(picture(1, 3, 64, 64))
    assert isinstance(maps, tuple)
    assert [tuple(x.shape) for x in maps] == [(1, c, 64 // s, 64 // s) for c, s in zip(channels, strides, strict=True)]


def test_maps_are_those_of_the_model():
    torch.manual_seed(0)
    model = timm.create_model("test_resnet").double().eval()
    backbone = TimmBackbone("test_resnet").double().eval()
    missing, unexpected = backbone.model.load_state_dict(model.state_dict(), strict=False)
    assert not missing and sorted(unexpected) == ["fc.bias", "fc.weight"]
    x = picture(2, 3, 65, 47).double()
    _, expected = model.forward_intermediates(x)
    for one, other in zip(backbone(x), expected[1:], strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("name", "out_indices", "levels"),
    [
        ("test_resnet", (2,), [2]),
        ("test_resnet", (-1,), [4]),
        ("test_resnet", (0, -2), [0, 3]),
        ("test_vit", (-1,), [5]),
    ],
)
def test_out_indices(name, out_indices, levels):
    full, part = (TimmBackbone(name, out_indices=at).eval() for at in (tuple(range(LEVELS[name])), out_indices))
    missing, _ = part.load_state_dict(full.state_dict(), strict=False)
    assert not missing
    x = picture(1, 3, 64, 64) if name == "test_resnet" else picture(1, 3, 160, 160)
    expected = full(x)
    for one, level in zip(part(x), levels, strict=True):
        torch.testing.assert_close(one, expected[level])
    assert part.feature_info.channels() == [full.feature_info.channels()[level] for level in levels]


@pytest.mark.parametrize("name", LEVELS)
def test_frozen_stages_are_what_leads_to_the_level(name):
    levels = tuple(range(LEVELS[name]))
    size = 160 if name == "test_vit" else 64
    free = TimmBackbone(name, out_indices=levels)
    parameters = dict(free.named_parameters())
    assert all(p.requires_grad for p in parameters.values())
    maps = free(picture(2, 3, size, size))
    for level in (0, 1, levels[-1]):
        gradients = torch.autograd.grad(
            maps[level].sum(), list(parameters.values()), allow_unused=True, retain_graph=True
        )
        leading = {key for key, gradient in zip(parameters, gradients, strict=True) if gradient is not None}
        frozen = TimmBackbone(name, out_indices=levels, frozen_stages=level).eval().train()
        assert {key for key, p in frozen.named_parameters() if not p.requires_grad} == leading
        for key, module in frozen.named_modules():
            own = [f"{key}.{inner}" for inner, _ in module.named_parameters(recurse=False)]
            if own and set(own) <= leading and isinstance(module, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
                assert not module.training, key
        if leading != set(parameters):
            assert frozen(picture(2, 3, size, size))[-1].requires_grad


def test_frozen_norms_keep_their_statistics():
    backbone = TimmBackbone("test_resnet", frozen_stages=1).train()
    before = {key: value.clone() for key, value in backbone.named_buffers() if key.endswith("running_mean")}
    backbone(picture(2, 3, 64, 64))
    still = {key for key, value in backbone.named_buffers() if key in before and torch.equal(value, before[key])}
    assert still == {key for key in before if key.startswith(("model.conv1", "model.bn1", "model.layer1"))} != set()


@pytest.mark.parametrize("norm_eval", [True, False])
def test_norm_eval(norm_eval):
    backbone = TimmBackbone("resnet18", norm_eval=norm_eval).train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 20 and all(norm.training is not norm_eval for norm in norms) and backbone.training


def test_other_channels():
    backbone = TimmBackbone("mobilenetv3_small_050", in_channels=5)
    assert backbone(picture(2, 5, 64, 64))[0].shape == (2, 8, 16, 16)
    with pytest.raises(ValueError, match=r"TimmBackbone: the input must be \(B, 5, H, W\), got \(2, 3, 64, 64\)"):
        backbone(picture(2, 3, 64, 64))


def test_recomputed_activations_change_nothing():
    torch.manual_seed(0)
    plain = TimmBackbone("test_convnext").train()
    saving = TimmBackbone("test_convnext", with_cp=True).train()
    saving.load_state_dict(plain.state_dict())
    assert any(getattr(module, "grad_checkpointing", False) for module in saving.modules())
    assert not any(getattr(module, "grad_checkpointing", False) for module in plain.modules())
    x = picture(2, 3, 64, 64)
    for backbone in (plain, saving):
        sum((y * y).sum() for y in backbone(x)).backward()
    for one, other in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


def test_messages():
    for arguments, message in (
        (dict(model_name="resnt18"), "TimmBackbone: timm .* has no model 'resnt18'; did you mean .*resnet18"),
        (dict(model_name="resnet18", out_indices=(0, 9)), "timm does not build resnet18 as a backbone with these"),
        (dict(model_name="test_resnet", frozen_stages=5), "frozen_stages 5 is not in -1..4, test_resnet's levels"),
        (dict(model_name="test_resnet", frozen_stages=-2), "frozen_stages -2 is not in -1..4"),
        (dict(model_name="hrnet_w18_small", frozen_stages=1), "branches side by side"),
        (dict(model_name="hrnet_w18_small", with_cp=True), "no gradient checkpointing for hrnet_w18_small: with_cp"),
        (dict(model_name="test_resnet", init_cfg=dict(type="Pretrained")), "use pretrained=True or checkpoint_path"),
    ):
        with pytest.raises(ValueError, match=message):
            TimmBackbone(**arguments)


def test_checkpoint_path(tmp_path):
    torch.manual_seed(1)
    model, path = timm.create_model("test_resnet"), tmp_path / "w.pth"
    torch.save(model.state_dict(), path)
    backbone = TimmBackbone("test_resnet", checkpoint_path=str(path))
    backbone.init_weights()  # as mmengine calls it: nothing is lost
    own = backbone.model.state_dict()
    assert own and all(torch.equal(model.state_dict()[key], value) for key, value in own.items())
    with pytest.raises(InputError, match="checkpoint_path .*none.pth: no such file"):
        TimmBackbone("test_resnet", checkpoint_path=str(tmp_path / "none.pth"))
    (tmp_path / "text.pth").write_text("hello")
    for name, file in (("test_convnext", "w.pth"), ("test_resnet", "text.pth"), ("resnet18", "w.pth")):
        with pytest.raises(ValueError, match=f"timm does not build {name} as a backbone .* weights of .*{file}: "):
            TimmBackbone(name, checkpoint_path=str(tmp_path / file))
    with pytest.raises(
        InputError, match=r"w.pth: not weights of test_vit \(it leaves \d+ parameters as .* model.cls_token"
    ):
        TimmBackbone("test_vit", checkpoint_path=str(path))
    vit = timm.create_model("test_vit")
    torch.save(vit.state_dict(), path)
    backbone = TimmBackbone("test_vit", checkpoint_path=str(path), out_indices=(-1,))
    own = backbone.model.model.state_dict()
    assert own and all(torch.equal(vit.state_dict()[key], value) for key, value in own.items())


def test_on_the_meta_device():
    with torch.device("meta"):
        maps = TimmBackbone("test_resnet")(torch.empty(2, 3, 65, 64))
    assert [x.shape[2] for x in maps] == [17, 9, 5, 3]


def test_weights_that_cannot_be_fetched(monkeypatch):
    def offline(*args, **kwargs):
        raise OSError("no route to host")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(
        InputError, match=r"weights of resnet18 could not be fetched \(OSError: no route.*checkpoint_path"
    ):
        TimmBackbone("resnet18", pretrained=True)


def test_in_a_detector_of_mmdet_by_config():
    config = Config.fromstring(
        """
_base_ = ["mmdet::_base_/models/retinanet_r50_fpn.py"]
model = dict(
    backbone=dict(_delete_=True, type="bestiary.TimmBackbone", model_name="mobilenetv3_small_050", norm_eval=True),
    neck=dict(in_channels=[8, 16, 24, 288], out_channels=16),
    bbox_head=dict(in_channels=16, feat_channels=16, stacked_convs=1, num_classes=3),
)
""",
        ".py",
    )
    from mmdet.registry import MODELS as MMDET_MODELS

    init_default_scope("mmdet")
    detector = MMDET_MODELS.build(config.model)
    detector.init_weights()
    assert isinstance(detector.backbone, TimmBackbone)
    maps = detector.extract_feat(picture(1, 3, 96, 128))
    assert [tuple(x.shape[1:]) for x in maps[:4]] == [(16, 12, 16), (16, 6, 8), (16, 3, 4), (16, 2, 2)]
    sum(x.abs().sum() for x in maps[:3]).backward()
    assert detector.backbone.model.conv_stem.weight.grad.abs().sum() > 0
    assert MODELS.get("TimmBackbone") is TimmBackbone
