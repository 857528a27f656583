"""Pictures with any number of classes: losses, predictions, a data set and scores, as a run puts them together."""

import json

import numpy as np
import pytest
import torch
from mmengine.runner import Runner
from PIL import Image

from bestiary.engine.configs import load_config
from bestiary.engine.predictions import prediction_of
from bestiary.engine.runner import build_runner
from bestiary.engine.saving import SavedPredictions
from bestiary.errors import InputError
from bestiary.heads import ImageClassifier, LinearHead
from bestiary.inputs import ClassSample
from bestiary.inputs.digits import make_digits
from bestiary.inputs.transforms import PackImageInputs

BACKBONE = dict(
    type="bestiary.PoolFormer",
    arch=dict(depths=(1, 1, 1, 1), dims=(8, 12, 16, 20), layer_scale_init=1.0),
    out_indices=(3,),
)


def classifier(**head):
    torch.manual_seed(0)
    return ImageClassifier(BACKBONE, dict(type="bestiary.LinearHead", in_channels=20, num_classes=4, **head))


def samples(targets):
    return [ClassSample().set_gt_score(target) for target in targets]


def test_binary_cross_entropy_is_its_definition():
    torch.manual_seed(0)
    logits, target = torch.randn(3, 4, dtype=torch.float64), torch.rand(3, 4, dtype=torch.float64)
    found = LinearHead(20, 4, multi_label=True).loss(logits, target)["loss"]
    expected = 0.0
    for z, t in zip(logits.flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + np.exp(-z))
        expected -= t * np.log(p) + (1 - t) * np.log(1 - p)
    assert float(found) == pytest.approx(expected / 12, rel=1e-6)
    labels = torch.tensor([1, 0, 3])
    one_class = LinearHead(20, 4, loss="binary_cross_entropy", label_smoothing=0.2).loss(logits, labels)["loss"]
    soft = torch.nn.functional.one_hot(labels, 4) * 0.8 + 0.05
    torch.testing.assert_close(one_class, LinearHead(20, 4, multi_label=True).loss(logits, soft.double())["loss"])


def test_asymmetric_is_its_definition():
    """Equations 4 to 6 of arXiv:2009.14119 with its exponents 4 and 1 and margin 0.05."""
    torch.manual_seed(0)
    logits = torch.randn(3, 4)
    target = (torch.rand(3, 4) < 0.4).float()
    found = LinearHead(20, 4, multi_label=True, loss="asymmetric").loss(logits, target)["loss"]
    expected = 0.0
    for z, t in zip(logits.double().flatten().tolist(), target.flatten().tolist(), strict=True):
        p = 1 / (1 + np.exp(-z))
        shifted = max(p - 0.05, 0.0)
        expected -= (1 - p) * np.log(p) if t else shifted**4 * np.log(1 - shifted)
    assert float(found) == pytest.approx(expected / 3, rel=1e-5)


def test_predictions():
    model = classifier(multi_label=True, threshold=0.45).eval()
    x = torch.randn(3, 3, 32, 32)
    logits = model(x).detach()
    with torch.no_grad():
        predicted = model(x, mode="predict")
    for sample, row in zip(predicted, logits, strict=True):
        torch.testing.assert_close(sample.pred_score, row.sigmoid())
        assert sample.pred_labels.tolist() == [
            k for k in row.argsort(descending=True).tolist() if row[k].sigmoid() >= 0.45
        ]
        assert int(sample.pred_label) == int(row.argmax())
        drawn = prediction_of(sample)
        assert drawn.labels.tolist() == sample.pred_labels.tolist()
    nobody = ClassSample().set_prediction(torch.tensor([0.1, 0.2]), 0.5)
    assert len(nobody.pred_labels) == 0 and len(prediction_of(nobody).labels) == 0


def test_loss_of_a_batch_and_what_does_not_fit():
    model = classifier(multi_label=True)
    x, target = torch.randn(2, 3, 32, 32), torch.tensor([[1.0, 0, 1, 0], [0, 0, 0, 0]])
    found = model.train()(x, samples(target), mode="loss")["loss"]
    torch.testing.assert_close(found, torch.nn.functional.binary_cross_entropy_with_logits(model(x), target))
    with pytest.raises(InputError, match="has 3 targets, a class each, but the head has 4 classes"):
        model(x, samples(torch.zeros(2, 3)), mode="loss")
    with pytest.raises(ValueError, match="loss='cross_entropy' asks for one class a picture"):
        classifier(multi_label=True, loss="cross_entropy")
    with pytest.raises(ValueError, match="no loss 'focal'; there are cross_entropy, binary_cross_entropy, asymmetric"):
        classifier(loss="focal")
    head = dict(type="bestiary.LinearHead", in_channels=20, num_classes=4)
    with pytest.raises(ValueError, match="mixup is for one class a picture"):
        ImageClassifier(BACKBONE, dict(**head, multi_label=True), mixup=dict(mixup_alpha=0.8))
    mixing = ImageClassifier(BACKBONE, head, mixup=dict(mixup_alpha=0.8))
    with pytest.raises(InputError, match="set model.mixup=None"):
        mixing(x, samples(target), mode="loss")
    # Soft targets of one class go through the plain head.
    soft = torch.tensor([[0.2, 0.8, 0, 0], [0.25] * 4])
    torch.testing.assert_close(
        classifier()(x, samples(soft), mode="loss")["loss"],
        -(soft * classifier()(x).log_softmax(1)).sum(1).mean(),
    )


def test_packed():
    results = dict(img=Image.new("RGB", (4, 3)), gt_score=np.array([0, 1, 1], np.float32))
    sample = PackImageInputs()(results)["data_samples"]
    assert sample.gt_score.tolist() == [0, 1, 1] and sample.gt_score.dtype == torch.float32


def test_saved_and_restored(tmp_path):
    saved = SavedPredictions(tmp_path / "saved", dict(a="b"))
    sample = ClassSample(metainfo=dict(img_path="x/a.jpg")).set_gt_score(torch.tensor([0, 1.0, 1]))
    sample.set_prediction(torch.tensor([0.9, 0.1, 0.7]), 0.6)
    saved.add(sample)
    saved.flush("0")
    again = SavedPredictions(tmp_path / "saved", dict(a="b"), resume=True)
    fresh = again.restore(ClassSample(metainfo=dict(img_path="x/a.jpg")))
    assert fresh.pred_labels.tolist() == [0, 2] and torch.equal(fresh.pred_score, sample.pred_score)
    (path,) = again.finish()
    import pyarrow.parquet

    (row,) = pyarrow.parquet.read_table(path).to_pylist()
    assert row["gt_labels"] == [1, 2] and row["pred_labels"] == [0, 2]


def test_a_run_on_the_digits(tmp_path, monkeypatch):
    """A few steps of the config that ships, on few pictures, and its scores."""
    monkeypatch.chdir(tmp_path)
    make_digits("data/digits", train=8, val=5, layouts=("coco",))
    cfg = load_config("heads/multi-label_poolformer_digits")
    cfg.model.backbone.pop("init_cfg")
    cfg.train_dataloader.batch_size = 4
    for split in ("train", "val", "test"):
        cfg[f"{split}_dataloader"].update(num_workers=0, persistent_workers=False)
    cfg.train_cfg.update(max_epochs=1, val_interval=1)
    cfg.param_scheduler = None
    runner = build_runner(cfg)
    batch = next(iter(Runner.build_dataloader(cfg.train_dataloader)))
    document = json.loads((tmp_path / "data/digits/coco/annotations/instances_train2017.json").read_text())
    names = {entry["id"]: int(entry["name"]) for entry in document["categories"]}
    for sample in batch["data_samples"]:
        number = next(x["id"] for x in document["images"] if sample.img_path.endswith(x["file_name"]))
        there = {names[x["category_id"]] for x in document["annotations"] if x["image_id"] == number}
        assert torch.nonzero(sample.gt_score).flatten().tolist() == sorted(there)
    runner.train()
    scores = runner.val_loop.run() if not hasattr(runner, "test_loop") else runner.test()
    assert {"multilabel/mAP", "multilabel/CF1", "multilabel/OF1"} <= scores.keys()
    assert 0 < scores["multilabel/mAP"] <= 1
