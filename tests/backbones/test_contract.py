"""What every backbone owes, over all families and all names."""

import copy
import io
import math

import pytest
import torch
from shares import todays
from small_families import KIN, ONE_SIZE, TINY, by_family, loss, picture, sized, tiny
from timm.layers import DropPath
from torch import nn

from bestiary.backbones import build_backbone, list_backbones
from bestiary.backbones.names import FAMILIES, resolve_name
from bestiary.kernels import use_backend


def ceil_sizes(backbone, height, width):
    return [(math.ceil(height / stride), math.ceil(width / stride)) for stride in backbone.strides]


def test_every_family_is_tried_here():
    assert {family.NAME for family in FAMILIES} == set(TINY) and set(TINY) > KIN


@pytest.mark.parametrize("name", todays(list_backbones(), 8))
def test_every_name_gives_the_maps_that_it_promises(name):
    with torch.device("meta"):
        backbone = build_backbone(name, **sized(resolve_name(name)[0], (75, 133)))
        maps = backbone(torch.empty(2, 3, 75, 133))
    sizes = ceil_sizes(backbone, 75, 133)
    channels = backbone.feature_info.channels()
    assert [tuple(x.shape) for x in maps] == [(2, c, *size) for c, size in zip(channels, sizes, strict=True)]
    assert backbone.feature_info.reduction() == list(backbone.strides)


@by_family
@pytest.mark.parametrize(
    "size", [(32, 32), (33, 61), (65, 47), (127, 34), (224, 224), (256, 192), (250, 333), (800, 1333)]
)
def test_odd_sizes_are_rounded_up(family, size):
    backbone = tiny(family, size=size).eval()
    with torch.no_grad():
        maps = backbone(picture(2 if max(size) < 200 else 1, 3, *size))
    assert isinstance(maps, tuple)
    assert [tuple(x.shape[2:]) for x in maps] == ceil_sizes(backbone, *size)
    assert all(torch.isfinite(x).all() for x in maps)


@pytest.mark.parametrize("name", sorted(ONE_SIZE))
def test_families_of_one_size_say_so(name):
    family = next(family for family in FAMILIES if family.NAME == name)
    backbone = tiny(family, size=(45, 71))
    assert len(backbone(picture(2, 3, 45, 71))) == len(backbone.strides)
    with pytest.raises(ValueError, match="15 tokens, but this map has 4 x 5 = 20: give pictures of the img_size"):
        backbone(picture(2, 3, 49, 71))


@by_family
@pytest.mark.parametrize("out_indices", [(0,), (2,), (3,), (-1,), (1, 3), (0, -2), (-3, -1), None])
def test_out_indices(family, out_indices):
    stages = len(family.STRIDES)
    out_indices = range(stages) if out_indices is None else out_indices
    chosen = [index % stages for index in out_indices]
    if not -stages <= min(out_indices) <= max(out_indices) < stages or len(set(chosen)) < len(chosen):
        pytest.skip(f"{family.NAME} has {stages} stages")
    full, part = tiny(family).eval(), tiny(family, seed=5, out_indices=out_indices).eval()
    part.load_state_dict(full.state_dict(), strict=False)
    x = picture(2, 3, 45, 71)
    maps, expected = part(x), full(x)
    assert len(maps) == len(chosen)
    for at, index in enumerate(chosen):
        torch.testing.assert_close(maps[at], expected[index])
        assert maps[at].shape[1] == part.feature_info.channels()[at]
        assert family.STRIDES[index] == part.feature_info.reduction()[at]
    assert len(part.stages) == max(chosen) + 1  # no dead weight behind the last map


@by_family
@pytest.mark.parametrize("out_indices", [None, (0,), (-2, -1)])
def test_every_parameter_has_a_gradient(family, out_indices):
    if out_indices and len(out_indices) > len(family.STRIDES):
        pytest.skip(f"{family.NAME} has {len(family.STRIDES)} stage")
    backbone = tiny(family, out_indices=out_indices).train()
    loss(backbone(picture(2, 3, 45, 71))).backward()
    without = [name for name, p in backbone.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not without


@by_family
def test_other_input_channels(family):
    for channels in (1, 5):
        backbone = tiny(family, size=(40, 40), in_channels=channels)
        assert backbone(picture(2, channels, 40, 40))[0].shape[:2] == (2, backbone.feature_info.channels()[0])
    with pytest.raises(
        ValueError, match=rf"{family.__name__}: the input must be \(B, 5, H, W\) .* got \(1, 3, 40, 40\)"
    ):
        backbone(picture(1, 3, 40, 40))


@by_family
def test_one_picture_and_none(family):
    backbone = tiny(family).eval()
    x = picture(3, 3, 45, 71)
    for alone, together in zip(backbone(x[1:2]), backbone(x), strict=True):
        torch.testing.assert_close(alone, together[1:2])
    for empty, one in zip(backbone(x[:0]), backbone(x[:1]), strict=True):
        assert empty.shape == (0, *one.shape[1:])


@by_family
@pytest.mark.parametrize("wide", [True, False])
def test_a_picture_too_small(family, wide):
    least = min(family.STRIDES[-1], 32)
    size = (least - 1, 64) if wide else (64, least - 1)
    with pytest.raises(ValueError, match=rf"H and W of at least {least}, got \(2, 3, {size[0]}, {size[1]}\)"):
        tiny(family)(picture(2, 3, *size))
    if min(family.STRIDES) < least:
        assert len(tiny(family, out_indices=(0,))(picture(2, 3, *size))) == 1  # the first stage's stride is enough


@by_family
@pytest.mark.parametrize("dtype", [torch.uint8, torch.int64], ids=str)
def test_a_picture_of_integers(family, dtype):
    with pytest.raises(ValueError, match=rf"{family.__name__}: the input must be floating point, got {dtype}"):
        tiny(family)(torch.ones(1, 3, 64, 64, dtype=dtype))


@by_family
@pytest.mark.parametrize("frozen", [-1, 0, 1, 2, 3])
def test_frozen_stages(family, frozen):
    if frozen > len(family.STRIDES):
        pytest.skip(f"{family.NAME} has {len(family.STRIDES)} stage")
    backbone = tiny(family, frozen_stages=frozen, drop_path_rate=0.5)
    for backbone_now in (backbone, backbone.eval().train()):
        parts = dict(stem=backbone_now.stem, **{f"stage {i + 1}": s for i, s in enumerate(backbone_now.stages)})
        for index, (name, part) in enumerate(parts.items()):
            still = index <= frozen
            assert all(p.requires_grad is not still for p in part.parameters()), name
            assert all(module.training is not still for module in part.modules()), name
    maps = backbone(picture(2, 3, 45, 71))
    if trained := [x for x in maps if x.requires_grad]:  # none where every stage is frozen
        loss(trained).backward()
    assert all((p.grad is None) is not p.requires_grad for p in backbone.parameters())


@by_family
@pytest.mark.parametrize("norm_eval", [True, False])
def test_norm_eval(family, norm_eval):
    backbone = tiny(family, norm_eval=norm_eval)
    backbone.stages[0].extra = nn.Sequential(nn.BatchNorm2d(3), nn.SyncBatchNorm(3), nn.Dropout())  # if it has none
    backbone.train()
    norms = [module for module in backbone.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]
    assert len(norms) >= 2 and all(norm.training is not norm_eval for norm in norms)
    assert backbone.training and backbone.stages[0].extra[2].training
    assert not any(module.training for module in backbone.eval().modules())


@by_family
def test_recomputed_activations_change_nothing(family):
    results = []
    for with_cp in (False, True):
        backbone = tiny(family, with_cp=with_cp, drop_path_rate=0.3).train()
        calls = []
        backbone.stages[-1].blocks[0].register_forward_pre_hook(lambda *_, calls=calls: calls.append(1))
        torch.manual_seed(3)  # of drop path
        maps = backbone(picture(3, 3, 45, 71))
        loss(maps).backward()
        assert len(calls) == 1 + with_cp  # run again in the backward pass
        results.append((maps, [p.grad for p in backbone.parameters()]))
    (maps, grads), (cp_maps, cp_grads) = results
    for one, other in zip((*maps, *grads), (*cp_maps, *cp_grads), strict=True):
        torch.testing.assert_close(one, other)


@by_family
def test_drop_path_grows_linearly(family):
    backbone = tiny(family, size=(40, 40), drop_path_rate=0.4)
    blocks = [block for stage in backbone.stages for block in stage.blocks]
    assert len(blocks) == sum(backbone.num_blocks(stage) for stage in range(len(backbone.strides)))
    for index, block in enumerate(blocks):
        rates = [module.drop_prob for module in block.modules() if isinstance(module, DropPath)]
        assert rates and rates == pytest.approx([0.4 * index / (len(blocks) - 1)] * len(rates))
    x = picture(4, 3, 40, 40)
    assert not torch.equal(backbone.train()(x)[-1], backbone(x)[-1])
    assert torch.equal(backbone.eval()(x)[-1], backbone(x)[-1])


@pytest.mark.parametrize("family", todays(FAMILIES, 6, lambda family: family.NAME))
def test_compiles_without_a_graph_break(family):
    backbone, x = tiny(family).eval(), picture(2, 3, 45, 71)
    compiled = torch.compile(backbone, backend="aot_eager", fullgraph=True)
    with torch.no_grad():
        for one, other in zip(compiled(x), backbone(x), strict=True):
            torch.testing.assert_close(one, other)
    torch.compiler.reset()


@by_family
@pytest.mark.slow
@pytest.mark.parametrize("training", [False, True])
def test_compiled_by_inductor_it_gives_the_same(family, training):
    results = []
    for compiled in (False, True):
        backbone, x = tiny(family).train(training), picture(2, 3, 45, 71)
        maps = (torch.compile(backbone, fullgraph=True) if compiled else backbone)(x)
        loss(maps).backward()
        results.append((*maps, *(p.grad for p in backbone.parameters())))
    for one, other in zip(*results, strict=True):
        # Relative to the largest value: behind batch norms, rounding alone moves a small gradient among large ones.
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3 * max(1.0, float(other.detach().abs().max())))
    torch.compiler.reset()


@pytest.mark.parametrize("family", todays(FAMILIES, 6, lambda family: family.NAME))
def test_exports(family):
    backbone, x = tiny(family).eval(), picture(2, 3, 45, 71)
    exported = torch.export.export(backbone, (x,)).module()
    for one, other in zip(exported(x), backbone(x), strict=True):
        torch.testing.assert_close(one, other)


@by_family
@pytest.mark.slow
def test_becomes_onnx(family):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install bestiary[export]")
    from onnx.reference import ReferenceEvaluator

    backbone, x = tiny(family).eval(), picture(1, 3, 45, 71)
    with torch.no_grad(), use_backend("reference"):  # as in the graph, to the last bits
        expected = backbone(x)
    model = torch.onnx.export(backbone, (x,), dynamo=True, verbose=False).model_proto
    assert not any("bestiary" in one.domain for one in model.opset_import)
    for one, other in zip(ReferenceEvaluator(model).run(None, {"x": x.numpy()}), expected, strict=True):
        torch.testing.assert_close(torch.from_numpy(one), other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


@by_family
def test_autocast_to_bfloat16(family):
    backbone, x = tiny(family, size=(65, 71)).train(), picture(2, 3, 65, 71)
    with torch.autocast("cpu", torch.bfloat16):
        maps = backbone(x)
        loss([m.float() for m in maps]).backward()
    assert all(torch.isfinite(m).all() for m in maps)
    for p in backbone.parameters():
        assert p.dtype == torch.float32 and torch.isfinite(p.grad).all()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        rough, exact = backbone.eval()(x), tiny(family, size=(65, 71)).eval().float()
        exact.load_state_dict(backbone.state_dict())
    with torch.no_grad():
        for one, other in zip(rough, exact(x), strict=True):
            difference, size = (one.float() - other).square().mean().sqrt(), other.square().mean().sqrt()
            assert difference <= 0.1 * size


@by_family
def test_memory_format_changes_nothing(family):
    backbone, x = tiny(family).eval(), picture(2, 3, 45, 71)
    other = tiny(family).eval().to(memory_format=torch.channels_last)
    for one, two in zip(backbone(x), other(x.to(memory_format=torch.channels_last)), strict=True):
        torch.testing.assert_close(one, two)


@by_family
def test_copies_and_pickles(family):
    backbone, x = tiny(family, drop_path_rate=0.1).eval(), picture(1, 3, 45, 71)
    expected = backbone(x)
    buffer = io.BytesIO()
    torch.save(backbone, buffer)
    buffer.seek(0)
    for copied in (copy.deepcopy(backbone), torch.load(buffer, weights_only=False)):
        assert all(torch.equal(one, other) for one, other in zip(copied(x), expected, strict=True))
        assert copied.feature_info.channels() == backbone.feature_info.channels()


@by_family
def test_messages(family):
    name, stages = next(iter(family.ARCHS)), len(family.STRIDES)
    near, who = f"{name}x", family.__name__
    for arguments, message in (
        (dict(arch=near), rf"{who}: no arch '{near}'; there are .*did you mean '{name}'.*or give a dict of depths"),
        (dict(arch=name, drop_path_rat=0.1), f"{who}: no argument 'drop_path_rat'; an arch has .*depths"),
        (dict(arch=name, dimz=(1, 2, 3, 4)), r"no argument 'dimz'.*did you mean 'dims'\?"),
        (dict(arch=dict(depths=(1,) * stages)), "lacks dims"),
        (dict(arch=name, depths=(1, 1)), rf"depths \(1, 1\) must have {stages} entries, one a stage"),
        (dict(arch=name, depths=3), f"depths 3 must have {stages} entries, one a stage"),
        (dict(arch=name, drop_path_rate=1.0), "drop_path_rate 1.0 is not in 0..1"),
        (dict(arch=name, drop_path_rate=-0.1), "drop_path_rate -0.1 is not in 0..1"),
        (dict(arch=name, frozen_stages=5), f"frozen_stages 5 is not in -1..{stages}"),
        (dict(arch=name, frozen_stages=-2), f"frozen_stages -2 is not in -1..{stages}"),
        (dict(arch=name, out_indices=(0, 4)), rf"out_indices \(0, 4\) must be ascending stages of 0..{stages - 1}"),
        (dict(arch=name, out_indices=(-5,)), "must be ascending stages"),
        (dict(arch=name, out_indices=(2, 1)), "must be ascending stages"),
        (dict(arch=name, out_indices=(2, 2)), "must be ascending stages"),
        (dict(arch=name, out_indices=()), "must be ascending stages"),
    ):
        with torch.device("meta"), pytest.raises(ValueError, match=message):
            family(**arguments)


def test_names():
    assert list_backbones() == sorted(set(list_backbones())) and len(list_backbones()) >= 5
    assert list_backbones("poolformer_*") == [f"poolformer_{size}" for size in ("m36", "m48", "s12", "s24", "s36")]
    assert list_backbones("nothing*") == []
    with pytest.raises(ValueError, match="no backbone 'poolformer_s13'; did you mean .*poolformer_s12"):
        build_backbone("poolformer_s13")
    with pytest.raises(ValueError, match="no backbone 's12'"):
        build_backbone("s12")
    with torch.device("meta"):
        assert build_backbone("poolformer_s12", out_indices=(-1,), in_channels=4).in_channels == 4
