"""Scores of classifiers against loops and scikit-learn."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import accuracy_score, balanced_accuracy_score, top_k_accuracy_score

from bestiary.engine.metrics import CalibrationError, ClassAccuracy, RealAccuracy, TopkAccuracy
from bestiary.errors import InputError
from bestiary.inputs import ClassSample
from bestiary.registry import METRICS


def samples(scores, labels, paths=None):
    made = []
    for number, (score, label) in enumerate(zip(scores, labels, strict=True)):
        sample = ClassSample().set_gt_label(int(label)).set_pred_score(torch.as_tensor(score))
        sample.set_metainfo({"img_path": paths[number] if paths else f"{number}.jpg"})
        made.append(sample.to_dict())
    return made


def evaluated(metric, *args, classes=None):
    metric.dataset_meta = {"classes": classes} if classes else None
    made = samples(*args)
    for at in range(0, len(made), 4):
        metric.process(None, made[at : at + 4])
    return metric.evaluate(len(made))


@pytest.fixture
def answers():
    """Probabilities (203, 7), three of four times with the right class ahead, and labels (203,) without class 5."""
    rng = np.random.default_rng(0)
    labels = rng.choice([0, 1, 2, 3, 4, 6], size=203)
    logits = rng.normal(size=(203, 7)) + 2 * np.eye(7)[labels]
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True), labels


def test_top_1_and_means_are_scikit_learns(answers):
    scores, labels = answers
    top = evaluated(TopkAccuracy(topk=(1, 5)), scores, labels)
    assert top["accuracy/top1"] == accuracy_score(labels, scores.argmax(1))
    assert top["accuracy/top5"] == top_k_accuracy_score(labels, scores, k=5, labels=range(7))
    found = evaluated(ClassAccuracy(), scores, labels)
    assert found["accuracy/mean_class"] == pytest.approx(
        balanced_accuracy_score(labels, np.where(np.isin(scores.argmax(1), labels), scores.argmax(1), 0))
    )


def test_accuracy_a_class(answers):
    scores, labels = answers
    metric = ClassAccuracy(classwise=True)
    found = evaluated(metric, scores, labels, classes=list("abcdefg"))
    for k, name in enumerate("abcdefg"):
        mine = labels == k
        if name == "f":
            assert "accuracy/f" not in found
        else:
            assert found[f"accuracy/{name}"] == (scores[mine].argmax(1) == k).mean()
    (table,) = metric.tables
    assert table.row_count == 6 and [column.header for column in table.columns] == ["class", "pictures", "top-1"]


def expected_error(confidence, right, bins):
    """By the definition: a loop over bins (low, high]."""
    total, worst = 0.0, 0.0
    for number in range(bins):
        inside = [i for i, c in enumerate(confidence) if number / bins < c <= (number + 1) / bins]
        if inside:
            gap = abs(sum(right[i] for i in inside) - sum(confidence[i] for i in inside)) / len(inside)
            total, worst = total + gap * len(inside) / len(confidence), max(worst, gap)
    return total, worst


@pytest.mark.parametrize("bins", [1, 7, 15])
def test_calibration_against_the_definition(answers, bins):
    scores, labels = answers
    found = evaluated(CalibrationError(bins=bins), scores, labels)
    ece, mce = expected_error(scores.max(1), scores.argmax(1) == labels, bins)
    assert found == {"calibration/ece": pytest.approx(ece, abs=1e-12), "calibration/mce": pytest.approx(mce, abs=1e-12)}
    assert 0.01 < ece <= mce


def test_calibration_of_the_extremes():
    sure = np.eye(3)[[0, 1, 2, 2]]
    assert evaluated(CalibrationError(), sure, [0, 1, 2, 0]) == {"calibration/ece": 0.25, "calibration/mce": 0.25}
    with pytest.raises(InputError, match="wants probabilities"):
        evaluated(CalibrationError(), 5 * sure, [0, 1, 2, 0])
    with pytest.raises(ValueError, match="bins 0; at least one"):
        CalibrationError(bins=0)


def test_real_labels(answers, tmp_path):
    scores, labels = answers
    rng = np.random.default_rng(1)
    sets = [rng.choice(7, size=rng.integers(0, 4), replace=False).tolist() for _ in labels]
    (tmp_path / "real.json").write_text(json.dumps(sets))
    paths = [f"/data/val/n01/ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, len(labels) + 1)]
    metric = METRICS.build(dict(type="bestiary.RealAccuracy", labels=str(tmp_path / "real.json")))
    right = [score.argmax() in allowed for score, allowed in zip(scores, sets, strict=True) if allowed]
    assert evaluated(metric, scores, labels, paths) == {"real/top1": sum(right) / len(right)}
    assert 0 < sum(right) < len(right) < len(labels)
    names = {f"{number}.jpg": allowed for number, allowed in enumerate(sets)}
    (tmp_path / "real.json").write_text(json.dumps(names))
    found = evaluated(RealAccuracy(tmp_path / "real.json"), scores, labels)
    assert found == {"real/top1": sum(right) / len(right)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        ("[[1], ", "not JSON"),
        ("[1, 2]", "it wants a list of classes a picture"),
        ('[["cat"]]', "it wants a list of classes a picture"),
        ("[[1]]", "it has no labels for 0.jpg"),
        ('{"0.jpg": []}', "it leaves out every picture"),
    ],
)
def test_real_labels_that_do_not_fit(content, message, tmp_path):
    path = tmp_path / "real.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        evaluated(RealAccuracy(path), [[0.5, 0.5]], [0])
    assert str(path) in str(caught.value)
