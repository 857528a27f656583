"""Top-k accuracy."""

import numpy as np
import pytest
import torch

from bestiary.engine.metrics import TopkAccuracy
from bestiary.inputs import ClassSample
from bestiary.registry import METRICS


def evaluated(scores, labels, topk, batch=4):
    metric = TopkAccuracy(topk=topk)
    for at in range(0, len(labels), batch):
        samples = [
            ClassSample().set_gt_label(int(label)).set_pred_score(torch.as_tensor(score)).to_dict()
            for score, label in zip(scores[at : at + batch], labels[at : at + batch], strict=True)
        ]
        metric.process(None, samples)
    return metric.evaluate(len(labels))


def by_definition(scores, labels, k):
    """A picture counts if fewer than k other classes score as high as its own, and its own score is a finite number."""
    right = 0
    for score, label in zip(scores, labels, strict=True):
        others = [other for index, other in enumerate(score) if index != label]
        right += bool(np.isfinite(score[label]) and sum(other >= score[label] for other in others) < k)
    return right / len(labels)


@pytest.mark.parametrize("ties", [False, True])
def test_against_the_definition(ties):
    rng = np.random.default_rng(0)
    scores, labels = rng.random((37, 9), dtype=np.float32), rng.integers(9, size=37)
    scores = np.round(scores * 4) / 4 if ties else scores
    results = evaluated(scores, labels, topk=(1, 3, 5))
    assert results == {f"accuracy/top{k}": pytest.approx(by_definition(scores, labels, k)) for k in (1, 3, 5)}
    assert 0 < results["accuracy/top1"] < results["accuracy/top3"] < results["accuracy/top5"] < 1
    if not ties:
        order = np.argsort(-scores, axis=1)
        assert results["accuracy/top3"] == pytest.approx((order[:, :3] == labels[:, None]).any(axis=1).mean())


def test_equal_scores_are_no_answer():
    assert evaluated(np.full((6, 5), 0.2, np.float32), np.arange(6) % 5, topk=(1, 5)) == {
        "accuracy/top1": 0.0,
        "accuracy/top5": 1.0,
    }


def test_scores_that_are_not_numbers():
    scores = np.array([[np.nan, 0.9, 0.1], [np.nan] * 3, [0.1, np.inf, 0.2], [0.1, 0.2, np.nan]], np.float32)
    assert evaluated(scores, np.array([0, 1, 1, 1]), topk=(1, 3)) == {"accuracy/top1": 0.25, "accuracy/top3": 0.25}
    broken = np.full((5, 3), np.nan, np.float32)
    assert evaluated(broken, np.array([0, 1, 2, 0, 1]), topk=3) == {"accuracy/top3": 0.0}


def test_too_large_a_k():
    with pytest.raises(ValueError, match=r"TopkAccuracy: topk \(1, 5\) with 4 classes; set topk in the config"):
        evaluated(np.eye(4, dtype=np.float32), np.arange(4), topk=(1, 5))


def test_by_config():
    metric = METRICS.build(dict(type="bestiary.TopkAccuracy", topk=[1, 2], prefix="digits"))
    metric.process(None, [dict(pred_score=torch.tensor([0.2, 0.8]), gt_label=torch.tensor([0]))])
    assert metric.evaluate(1) == {"digits/top1": 0.0, "digits/top2": 1.0}
