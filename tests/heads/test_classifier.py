"""ImageClassifier, its head and build_classifier."""

import math

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.data import Mixup

from bestiary.backbones import PoolFormer
from bestiary.checkpoints import build_classifier, load_classifier
from bestiary.errors import InputError
from bestiary.heads import ImageClassifier, LinearHead
from bestiary.inputs import ClassSample
from bestiary.registry import MODELS

SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 12, 16, 20), layer_scale_init=1.0)


def classifier(classes=5, mixup=None, **head):
    torch.manual_seed(0)
    return MODELS.build(
        dict(
            type="bestiary.ImageClassifier",
            backbone=dict(type="bestiary.PoolFormer", arch=SMALL, out_indices=(3,), out_norm=False),
            head=dict(type="bestiary.LinearHead", in_channels=20, num_classes=classes, norm="LayerNorm", **head),
            mixup=mixup,
        )
    )


def batch(size, classes=5):
    generator = torch.Generator().manual_seed(1)
    labels = torch.randint(classes, (size,), generator=generator)
    samples = [ClassSample(metainfo=dict(img_path=f"{i}.png")).set_gt_label(y) for i, y in enumerate(labels)]
    return torch.randn(size, 3, 40, 36, generator=generator), samples, labels


def cross_entropy_by_definition(logits, targets):
    """Mean over pictures of -sum target log softmax, float64."""
    logits = logits.double()
    total = 0.0
    for row, target in zip(logits, targets.double(), strict=True):
        log_sum = torch.log(torch.exp(row - row.max()).sum()) + row.max()
        total -= (target * (row - log_sum)).sum()
    return total / len(logits)


def test_three_modes():
    model = classifier().eval()
    inputs, samples, labels = batch(3)
    logits = model(inputs, samples, "tensor")
    assert logits.shape == (3, 5) and torch.equal(logits, model(inputs))
    losses = model(inputs, samples, "loss")
    expected = cross_entropy_by_definition(logits, torch.eye(5)[labels])
    assert set(losses) == {"loss"}
    torch.testing.assert_close(losses["loss"].double(), expected, rtol=1e-6, atol=1e-6)
    predicted = model(inputs, samples, "predict")
    assert [one is other for one, other in zip(predicted, samples, strict=True)] == [True] * 3
    for sample, row, label in zip(predicted, logits, labels, strict=True):
        torch.testing.assert_close(sample.pred_score, row.softmax(0))
        assert sample.pred_label.tolist() == [int(row.argmax())] and sample.gt_label.tolist() == [int(label)]
    assert len(model(inputs[:1], mode="predict")) == 1
    assert model(inputs[:0], [], "predict") == []
    with pytest.raises(ValueError, match="no mode 'train'; there are tensor, loss, predict"):
        model(inputs, samples, "train")


def test_preprocessor_and_a_step_of_mmengines():
    model = classifier()
    picture = torch.randint(0, 256, (3, 40, 36), dtype=torch.uint8)
    data = model.data_preprocessor(dict(inputs=[picture, picture], data_samples=batch(2)[1]))
    mean, std = torch.tensor([123.675, 116.28, 103.53]), torch.tensor([58.395, 57.12, 57.375])
    expected = (picture - mean[:, None, None]) / std[:, None, None]
    torch.testing.assert_close(data["inputs"], torch.stack([expected] * 2))
    results = model.val_step(dict(inputs=[picture], data_samples=batch(1)[1]))
    assert results[0].pred_score.sum().item() == pytest.approx(1)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    "mode", [dict(mixup_alpha=0.8), dict(mixup_alpha=0.0, cutmix_alpha=1.0)], ids=["mixup", "cutmix"]
)
def test_mixup_of_any_batch(size, smoothing, mode):
    model = classifier(mixup=dict(**mode, label_smoothing=smoothing)).train()
    assert isinstance(model.mixup, Mixup) and model.mixup.num_classes == 5
    inputs, samples, labels = batch(size)
    seen = {}

    def loss(logits, target):
        seen.update(target=target)
        return dict(loss=logits.sum())

    model.head.loss = loss
    model.backbone.register_forward_pre_hook(lambda module, args: seen.update(inputs=args[0]))
    original = inputs.clone()
    model(inputs, samples, "loss")
    target = seen["target"]
    assert target.shape == (size, 5) and target.min() >= 0
    torch.testing.assert_close(target.sum(dim=1), torch.ones(size))
    assert torch.equal(inputs, original)  # the caller's batch is not written to
    if size % 2:
        plain = torch.eye(5)[labels[-1]] * (1 - smoothing) + smoothing / 5
        torch.testing.assert_close(target[-1], plain)
        assert torch.equal(seen["inputs"][-1], inputs[-1])
    if size > 1:
        assert not torch.equal(seen["inputs"][0], inputs[0])
    model.eval()
    model(inputs, samples, "loss")
    assert torch.equal(seen["target"], labels) and torch.equal(seen["inputs"], inputs)  # in training alone


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bad", [5, 9, -1, -100])
def test_a_label_that_the_head_has_not(training, bad):
    model = classifier(mixup=dict(mixup_alpha=0.8)).train(training)
    inputs, samples, _ = batch(3)
    samples[1].set_gt_label(bad)
    message = rf"1.png: its class is number {bad}, but the head has 5 classes .*: set model.head.num_classes"
    with pytest.raises(InputError, match=message):
        model(inputs, samples, "loss")


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.3])
def test_label_smoothing_is_its_definition(smoothing):
    head = LinearHead(6, 4, label_smoothing=smoothing)
    logits, labels = torch.randn(7, 4, dtype=torch.float64) * 3, torch.randint(4, (7,))
    expected = cross_entropy_by_definition(logits, torch.eye(4)[labels].double() * (1 - smoothing) + smoothing / 4)
    torch.testing.assert_close(head.loss(logits, labels)["loss"].double(), expected, rtol=1e-6, atol=1e-6)
    soft = torch.rand(7, 4, dtype=torch.float32).softmax(dim=1)
    expected = cross_entropy_by_definition(logits, soft)
    torch.testing.assert_close(head.loss(logits, soft)["loss"].double(), expected, rtol=1e-6, atol=1e-6)


def norm_of(x, eps):
    return (x - x.mean()) / math.sqrt(float(((x - x.mean()) ** 2).mean()) + eps)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("norm", ["GroupNorm1", "LayerNorm", None])
def test_head_is_its_definition(norm, norm_first):
    head = LinearHead(6, 4, norm=norm, norm_first=norm_first, norm_eps=1e-3).double().eval()
    x = torch.randn(2, 6, 3, 5, dtype=torch.float64) * 2 + 1
    rows = []
    for picture in x:
        if norm is None:
            pooled = picture.mean(dim=(1, 2))
        elif not norm_first:
            pooled = norm_of(picture.mean(dim=(1, 2)), 1e-3)
        elif norm == "GroupNorm1":
            pooled = norm_of(picture, 1e-3).mean(dim=(1, 2))
        else:
            columns = [norm_of(picture[:, i, j], 1e-3) for i in range(3) for j in range(5)]
            pooled = torch.stack(columns).mean(dim=0)
        rows.append(head.fc.weight @ pooled + head.fc.bias)
    torch.testing.assert_close(head((x,)), torch.stack(rows))
    torch.testing.assert_close(head((torch.randn(2, 3, 9, 9), x)), head(x))


def test_batch_norm_head_and_dropout():
    head = LinearHead(6, 4, norm="BatchNorm", dropout=0.5)
    x = torch.randn(8, 6, 3, 5)
    assert not torch.equal(head.train()(x), head(x)) and torch.equal(head.eval()(x), head(x))
    assert head.norm.running_mean.abs().sum() > 0


def test_messages_of_the_head():
    with pytest.raises(ValueError, match="LinearHead: no norm 'RMS'; there are None, GroupNorm1, LayerNorm, BatchNorm"):
        LinearHead(6, 4, norm="RMS")
    with pytest.raises(ValueError, match="BatchNorm comes after the mean; set norm_first=False"):
        LinearHead(6, 4, norm="BatchNorm", norm_first=True)
    for shape in ((2, 5, 3, 3), (2, 6)):
        with pytest.raises(
            ValueError, match=r"in_channels 6 does not fit the backbone's map \(2, .*model.head.in_chann"
        ):
            LinearHead(6, 4)(torch.randn(shape))


def test_a_neck_between():
    torch.manual_seed(0)
    neck = torch.nn.Identity()
    neck.register_forward_hook(lambda module, args, out: tuple(x * 2 for x in out))
    backbone, head = PoolFormer(SMALL, out_indices=(3,)), LinearHead(20, 3)
    x = torch.randn(2, 3, 40, 40)
    assert torch.equal(ImageClassifier(backbone, head, neck=neck)(x), head([y * 2 for y in backbone(x)]))


@pytest.fixture(scope="module")
def timms(tmp_path_factory):
    """timm's poolformer_s12, with layer scales that let the blocks show, saved in timm's layout in two forms."""
    torch.manual_seed(2)
    model = timm.create_model("poolformer_s12").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_scale" in name:
                parameter.uniform_(0.5, 1.5)
    folder = tmp_path_factory.mktemp("timm")
    torch.save(model.state_dict(), folder / "w.pth")
    save_file(model.state_dict(), folder / "w.safetensors")
    return model, folder


@pytest.mark.parametrize("file", ["w.pth", "w.safetensors"])
def test_build_classifier_with_timms_weights(timms, file):
    theirs, folder = timms
    model = build_classifier("poolformer_s12", pretrained=str(folder / file)).eval()
    x = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        pooled = theirs.forward_features(x)
        torch.testing.assert_close(model.backbone(x)[-1], pooled, rtol=1e-4, atol=1e-4)
    assert torch.equal(model.head.fc.weight, theirs.head.fc.weight)
    assert torch.equal(model.head.norm.bias, theirs.head.norm.bias)
    assert model(x).shape == (1, 1000)


def test_another_number_of_classes_takes_the_backbone(timms, monkeypatch):
    theirs, folder = timms
    lines = []
    monkeypatch.setattr("bestiary.checkpoints.classifier.print_log", lambda text, *_, **__: lines.append(text))
    torch.manual_seed(7)
    model = build_classifier("poolformer_s12", num_classes=10, pretrained=str(folder / "w.pth"), drop_path_rate=0.2)
    torch.manual_seed(7)
    fresh = build_classifier("poolformer_s12", num_classes=10, drop_path_rate=0.2)
    assert torch.equal(model.backbone.stem.conv.weight, theirs.stem.conv.weight)
    assert torch.equal(model.head.norm.weight, theirs.head.norm.weight)
    assert torch.equal(model.head.fc.weight, fresh.head.fc.weight) and model.head.fc.weight.shape == (10, 512)
    assert lines == [f"{folder}/w.pth: its head has 1000 classes, ours 10: ours keeps its initial values"]
    assert model.backbone.stages[3].blocks[1].drop_path.drop_prob == pytest.approx(0.2)


def test_weights_that_do_not_fit(timms, tmp_path):
    _, folder = timms
    with torch.device("meta"):
        s24, m36 = build_classifier("poolformer_s24"), build_classifier("poolformer_m36")
    with pytest.raises(
        InputError, match=r"w.pth: does not fit poolformer_s24: \d+ missing \(backbone.stages.0.blocks.2"
    ):
        load_classifier(s24, "poolformer_s24", folder / "w.pth")
    with pytest.raises(InputError, match="does not fit poolformer_m36: .*mis-shaped .*Name the backbone"):
        load_classifier(m36, "poolformer_m36", folder / "w.pth")
    torch.save({"conv1.weight": torch.randn(3, 3)}, tmp_path / "r.pth")
    message = (
        "r.pth: not weights of poolformer_s24 in any known layout: .*not timm keys.*conv1.weight.*not official keys"
    )
    with pytest.raises(InputError, match=message):
        load_classifier(s24, "poolformer_s24", tmp_path / "r.pth")
    with pytest.raises(InputError, match="gone.pth: no such checkpoint; .* has r.pth"):
        build_classifier("poolformer_s12", num_classes=2, pretrained=str(tmp_path / "gone.pth"))


def test_our_own_files_and_parts(tmp_path):
    one, other = classifier(), classifier()
    torch.nn.init.normal_(one.head.fc.weight)
    path = tmp_path / "w.pth"
    torch.save({"state_dict": {f"module.{key}": value for key, value in one.state_dict().items()}}, path)
    load_classifier(other, "poolformer_s12", path)
    assert all(torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items())
    weights = {key: value for key, value in one.state_dict().items() if "stem" not in key}
    torch.save(weights, path)
    third = classifier()
    torch.nn.init.normal_(third.backbone.stem.conv.weight)
    kept = third.backbone.stem.conv.weight.clone()
    with pytest.raises(InputError, match=r"2 missing \(backbone.stem.conv.weight, backbone.stem.conv.bias\)"):
        load_classifier(third, "poolformer_s12", path)
    load_classifier(third, "poolformer_s12", path, strict=False)
    assert torch.equal(third.head.fc.weight, one.head.fc.weight) and torch.equal(third.backbone.stem.conv.weight, kept)
