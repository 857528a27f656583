"""Scores of several labels a picture, against loops."""

import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from bestiary.engine.metrics import MultiLabelScores
from bestiary.errors import InputError
from bestiary.inputs import ClassSample


def area_of(truth, scores):
    """Area under precision over recall as steps, thresholds at the scores that occur."""
    area, before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        taken = scores >= threshold
        recall = (truth & taken).sum() / truth.sum()
        area += (recall - before) * (truth & taken).sum() / taken.sum()
        before = recall
    return area


def evaluate(metric, scores, truth, names):
    metric.dataset_meta = dict(classes=names)
    for score, labels in zip(scores, truth, strict=True):
        sample = ClassSample().set_prediction(torch.tensor(score), metric.threshold).set_gt_score(torch.tensor(labels))
        metric.process(None, [sample.to_dict()])
    return metric.evaluate(len(scores))


@pytest.mark.parametrize("pictures", [1, 2, 40])
def test_is_its_definition(pictures):
    rng = np.random.default_rng(pictures)
    scores = rng.integers(0, 8, (pictures, 6)).astype(np.float32) / 8  # with ties
    truth = rng.random((pictures, 6)) < 0.4
    truth[:, 2] = False  # a class that never occurs
    truth[0, 0] = True
    metric = MultiLabelScores(threshold=0.6, classwise=True)
    found = evaluate(metric, scores, truth.astype(np.float32), list("abcdef"))
    areas, precisions, recalls = {}, [], []
    hits = claims = total = 0
    for k in range(6):
        right = sum(1 for s, t in zip(scores[:, k], truth[:, k], strict=True) if s >= 0.6 and t)
        claimed, there = int((scores[:, k] >= 0.6).sum()), int(truth[:, k].sum())
        hits, claims, total = hits + right, claims + claimed, total + there
        precisions.append(right / claimed if claimed else 0.0)
        recalls.append(right / there if there else 0.0)
        if there:
            areas["abcdef"[k]] = area_of(truth[:, k], scores[:, k])
            assert areas["abcdef"[k]] == pytest.approx(average_precision_score(truth[:, k], scores[:, k]))
    p, r = np.mean(precisions), np.mean(recalls)
    assert found["multilabel/mAP"] == pytest.approx(np.mean(list(areas.values())))
    assert (found["multilabel/CP"], found["multilabel/CR"]) == (pytest.approx(p), pytest.approx(r))
    assert found["multilabel/CF1"] == pytest.approx(2 * p * r / (p + r) if p + r else 0)
    p, r = (hits / claims if claims else 0.0), hits / total
    assert (found["multilabel/OP"], found["multilabel/OR"]) == (pytest.approx(p), pytest.approx(r))
    assert found["multilabel/OF1"] == pytest.approx(2 * p * r / (p + r) if p + r else 0)
    assert {k: found[f"multilabel/AP_{k}"] for k in areas} == pytest.approx(areas)
    assert "multilabel/AP_c" not in found
    assert metric.tables[0].row_count == 6


def test_nothing_occurs_and_what_does_not_fit():
    empty = evaluate(MultiLabelScores(), np.zeros((2, 3), np.float32), np.zeros((2, 3), np.float32), "abc")
    assert np.isnan(empty["multilabel/mAP"]) and empty["multilabel/OF1"] == 0
    one = ClassSample().set_prediction(torch.tensor([0.9, 0.2]), 0.5)
    with pytest.raises(InputError, match="has one class at most; it wants a data set such as MultiLabelImages"):
        MultiLabelScores().process(None, [one.set_gt_label(0).to_dict()])
    broken = ClassSample().set_prediction(torch.tensor([0.9, float("nan")]), 0.5).set_gt_score(torch.ones(2))
    with pytest.raises(InputError, match="scores that are not finite"):
        MultiLabelScores().process(None, [broken.to_dict()])
