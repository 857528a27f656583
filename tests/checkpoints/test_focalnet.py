"""FocalNet's weights between our names, timm's and the authors', and from other focal windows and levels."""

import pytest
import timm
import torch
from networks import same_weights

from bestiary.backbones import FocalNet
from bestiary.checkpoints import build_classifier, convert_state_dict
from bestiary.errors import InputError

SMALL = dict(depths=(1, 2, 1, 1), dims=(8, 16, 32, 64))
TINY, HUGE = ("focalnet_tiny_lrf", SMALL), ("focalnet_huge_fl4", SMALL)  # without and with every optional part


def weights(name, changes, **kwargs):
    """Random weights of a classifier of 10 classes."""
    generator = torch.Generator().manual_seed(0)
    shapes = build_classifier(name, num_classes=10, **changes, **kwargs).state_dict()
    return {key: torch.randn(value.shape, generator=generator) for key, value in shapes.items()}


@pytest.mark.parametrize("layout", ["bestiary", "timm", "official"])
@pytest.mark.parametrize(("name", "changes"), [TINY, HUGE, ("focalnet_base_iso", dict(depths=(2,), dims=(16,)))])
def test_there_and_back_is_bitwise_the_same(name, changes, layout):
    ours = weights(name, changes)
    theirs = convert_state_dict(ours, name, "bestiary", layout, **changes)
    assert len(theirs) == len(ours)
    assert same_weights(convert_state_dict(theirs, f"{name}.ms_in1k", layout, "bestiary", **changes), ours)


@pytest.mark.parametrize(("name", "changes"), [TINY, HUGE])
def test_timm_to_official_and_back(name, changes):
    ours = weights(name, changes)
    timms = convert_state_dict(ours, name, "bestiary", "timm", **changes)
    official = convert_state_dict(timms, name, "timm", "official", **changes)
    assert same_weights(official, convert_state_dict(ours, name, "bestiary", "official", **changes))
    assert same_weights(convert_state_dict(official, name, "official", "timm", **changes), timms)
    # timm reads the authors' files by itself; it must come to the same.
    with torch.device("meta"):
        model = timm.create_model(name)
    shapes = {key: torch.empty(value.shape, device="meta") for key, value in timms.items()}
    model.state_dict = lambda: shapes
    assert same_weights(timm.models.focalnet.checkpoint_filter_fn(dict(official), model), timms)


@pytest.mark.parametrize("name", timm.list_models("focalnet*"))
def test_timms_keys_and_shapes(name):
    classes = 1000 if name.endswith("rf") else 21842
    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=classes).state_dict()
        shapes = build_classifier(name, classes).state_dict()
    converted = convert_state_dict(shapes, name, "bestiary", "timm")
    assert {key: value.shape for key, value in converted.items()} == {k: v.shape for k, v in theirs.items()}


# Keys of the authors' files and their shapes, and how many there are.
SMALL_LRF = {
    "patch_embed.proj.weight": (96, 3, 4, 4),
    "patch_embed.norm.bias": (96,),
    "layers.0.blocks.1.norm1.weight": (96,),
    "layers.0.blocks.0.modulation.f.weight": (196, 96),
    "layers.0.blocks.0.modulation.f.bias": (196,),
    "layers.0.blocks.0.modulation.h.weight": (96, 96, 1, 1),
    "layers.0.blocks.0.modulation.proj.weight": (96, 96),
    "layers.0.blocks.0.modulation.focal_layers.0.0.weight": (96, 1, 3, 3),
    "layers.0.blocks.0.modulation.focal_layers.1.0.weight": (96, 1, 5, 5),
    "layers.0.blocks.0.modulation.focal_layers.2.0.weight": (96, 1, 7, 7),
    "layers.0.downsample.proj.weight": (192, 96, 2, 2),
    "layers.2.blocks.17.norm2.bias": (384,),
    "layers.2.downsample.norm.weight": (768,),
    "layers.3.blocks.1.mlp.fc1.weight": (3072, 768),
    "layers.3.blocks.1.mlp.fc2.bias": (768,),
    "norm.weight": (768,),
    "head.weight": (1000, 768),
}
HUGE_FL3 = {
    "patch_embed.proj.weight": (352, 3, 7, 7),
    "layers.1.downsample.proj.weight": (1408, 704, 3, 3),
    "layers.2.blocks.17.gamma_1": (1408,),
    "layers.2.blocks.17.gamma_2": (1408,),
    "layers.2.blocks.17.norm1.weight": (1408,),
    "layers.3.blocks.0.modulation.ln.weight": (2816,),
    "layers.3.blocks.0.modulation.f.weight": (5636, 2816),
    "head.bias": (1000,),
}


@pytest.mark.parametrize(("arch", "expected"), [("small_lrf", SMALL_LRF), ("huge_fl3", HUGE_FL3)])
def test_official_keys_and_shapes(arch, expected):
    with torch.device("meta"):
        shapes = build_classifier(f"focalnet_{arch}").state_dict()
    official = convert_state_dict(shapes, f"focalnet_{arch}", "bestiary", "official")
    assert {key: tuple(official[key].shape) for key in expected} == expected
    assert len(official) == len(shapes)
    assert not any("layers.3.downsample" in key for key in official)
    assert arch != "small_lrf" or len(official) == 428


def test_official_places():
    ours = weights(*HUGE)
    official = convert_state_dict(ours, HUGE[0], "bestiary", "official", **SMALL)
    for theirs, own in {
        "layers.0.downsample.norm.weight": "backbone.stages.1.downsample.norm.weight",
        "layers.1.blocks.1.norm2.weight": "backbone.stages.1.blocks.1.norm2.weight",
        "layers.1.blocks.1.gamma_2": "backbone.stages.1.blocks.1.layer_scale2.scale",
        "layers.3.blocks.0.modulation.ln.bias": "backbone.stages.3.blocks.0.token_mixer.norm.bias",
        "layers.3.blocks.0.modulation.f.weight": "backbone.stages.3.blocks.0.token_mixer.f.weight",
        "norm.weight": "head.norm.weight",
        "head.weight": "head.fc.weight",
    }.items():
        assert torch.equal(official[theirs], ours[own]), theirs


def test_output_norms_of_the_authors_detectors():
    own = {key: torch.randn(value.shape) for key, value in FocalNet("tiny_srf", **SMALL).state_dict().items()}
    official = convert_state_dict(own, "focalnet_tiny_srf", "bestiary", "official", **SMALL)
    assert all(torch.equal(official[f"norm{stage}.weight"], own[f"norms.{stage}.weight"]) for stage in range(4))
    timms = convert_state_dict(own, "focalnet_tiny_srf", "bestiary", "timm", **SMALL)
    assert len(timms) == len(own) - 8


@pytest.mark.parametrize("layout", ["timm", "official"])
def test_a_file_of_any_layout_loads(layout, tmp_path):
    name, path = HUGE[0], tmp_path / "w.pth"
    ours = weights(*HUGE)
    torch.save({"model": convert_state_dict(ours, name, "bestiary", layout, **SMALL)}, path)
    model = build_classifier(name, num_classes=10, pretrained=str(path), **SMALL)
    assert same_weights(dict(model.state_dict()), ours)


def pretrained(path, **changes):
    backbone = FocalNet("tiny_srf", **SMALL, **changes, init_cfg=dict(type="Pretrained", checkpoint=str(path)))
    backbone.init_weights()
    return backbone


@pytest.fixture
def srf(tmp_path):
    """A file of the authors' with two levels and windows of 3, and its weights under our names."""
    ours = weights("focalnet_tiny_srf", SMALL)
    path = tmp_path / "srf.pth"
    torch.save({"model": convert_state_dict(ours, "focalnet_tiny_srf", "bestiary", "official", **SMALL)}, path)
    return path, {key.removeprefix("backbone."): value for key, value in ours.items() if key.startswith("backbone.")}


@pytest.mark.parametrize("windows", [9, (11, 9, 9, 7)])
def test_wider_windows_begin_as_the_same_network(srf, windows):
    path, given = srf
    wide, narrow = pretrained(path, focal_windows=windows), pretrained(path)
    first = 9 if windows == 9 else 11
    for level, side in enumerate((3, 5)):
        key = f"stages.0.blocks.0.token_mixer.focal_layers.{level}.weight"
        kernel, rim = wide.state_dict()[key], (first - 3) // 2
        assert kernel.shape == (8, 1, first + 2 * level, first + 2 * level)
        assert torch.equal(kernel[..., rim : rim + side, rim : rim + side], given[key])
        assert kernel.count_nonzero() == given[key].count_nonzero()
    x = torch.randn(1, 3, 75, 61, dtype=torch.float64)
    with torch.no_grad():
        for one, other in zip(wide.double()(x), narrow.double()(x), strict=True):
            torch.testing.assert_close(one, other)


def test_narrower_windows_take_the_middle(srf, tmp_path):
    path, _ = srf
    wide = pretrained(path, focal_windows=7)
    for kernel in (p for name, p in wide.named_parameters() if "focal_layers" in name):
        torch.nn.init.normal_(kernel)
    torch.save(wide.state_dict(), tmp_path / "wide.pth")
    narrow = pretrained(tmp_path / "wide.pth", focal_windows=5)
    for level, side in enumerate((5, 7)):
        key = f"stages.2.blocks.0.token_mixer.focal_layers.{level}.weight"
        assert torch.equal(narrow.state_dict()[key], wide.state_dict()[key][..., 1 : 1 + side, 1 : 1 + side])


def test_more_levels_leave_the_last_gate_last(srf):
    path, given = srf
    torch.manual_seed(3)
    backbone = pretrained(path, focal_levels=4)
    dim, key = 16, "stages.1.blocks.1.token_mixer.f"
    for part in ("weight", "bias"):
        old, new = given[f"{key}.{part}"], backbone.state_dict()[f"{key}.{part}"]
        assert len(old) == 2 * dim + 3 and len(new) == 2 * dim + 5
        assert torch.equal(new[: 2 * dim + 2], old[:-1]) and torch.equal(new[-1], old[-1])
        assert not new[2 * dim + 2 : -1].any()
    kernels = [layer.weight for layer in backbone.stages[1].blocks[1].token_mixer.focal_layers]
    assert [kernel.shape[-1] for kernel in kernels] == [3, 5, 7, 9]
    assert torch.equal(kernels[1], given["stages.1.blocks.1.token_mixer.focal_layers.1.weight"])
    assert all(0 < kernel.std() < 0.2 for kernel in kernels[2:])  # as they were initialised


def test_fewer_levels_are_refused(srf, tmp_path):
    path, given = srf
    with pytest.raises(InputError, match="does not fit FocalNet 'tiny_srf': .*Name the arch that the weights are of"):
        pretrained(path, focal_levels=1)
    torch.save(given, tmp_path / "w.pth")
    with pytest.raises(
        InputError, match=r"f.weight \[19, 8\] in the file, \[18, 8\] in .*unexpected \(.*focal_layers.1"
    ):
        pretrained(tmp_path / "w.pth", focal_levels=1)


def test_a_kernel_that_is_missing_is_not_made_up(srf, tmp_path):
    given = {
        key: value for key, value in srf[1].items() if key != "stages.0.blocks.0.token_mixer.focal_layers.1.weight"
    }
    torch.save(given, tmp_path / "w.pth")
    with pytest.raises(InputError, match=r"1 missing \(stages.0.blocks.0.token_mixer.focal_layers.1.weight\)"):
        pretrained(tmp_path / "w.pth")


def test_another_family_is_refused():
    with pytest.raises(InputError, match=r"keys are not official keys of focalnet_tiny_srf: network"):
        convert_state_dict({"network.0.0.norm1.weight": torch.ones(8)}, "focalnet_tiny_srf", "official", "bestiary")
