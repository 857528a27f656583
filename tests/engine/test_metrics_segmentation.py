"""Streaming IoU against a definition in NumPy and mmseg's IoUMetric."""

import cv2
import numpy as np
import pytest
import torch
from mmseg.evaluation import IoUMetric

from bestiary.engine.metrics import StreamingIoU
from bestiary.errors import InputError
from bestiary.registry import METRICS

CLASSES = tuple("abcdefg")


def pictures(seed=0, count=5, classes=5, ignored=True):
    """Predictions and labels of odd sizes, blotches rather than noise; the last two of seven classes never occur."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        height, width = rng.integers(17, 45, size=2)
        label = cv2.resize(rng.integers(0, classes, (5, 4)).astype(np.uint8), (width, height), interpolation=0)
        noise = rng.random((height, width)) < 0.2
        predicted = np.where(noise, rng.integers(0, classes - 1, (height, width)), label)
        label = np.where(rng.random((height, width)) < 0.1, 255, label) if ignored else label
        made.append((predicted.astype(np.int64), label.astype(np.uint8)))
    return made


def evaluated(metric, made, batch=2, classes=CLASSES):
    metric.dataset_meta = {"classes": classes}
    samples = [
        dict(
            img_path=f"{number}.png",
            pred_sem_seg={"data": torch.from_numpy(predicted)[None]},
            gt_sem_seg={"data": torch.from_numpy(label)[None]},
        )
        for number, (predicted, label) in enumerate(made)
    ]
    for at in range(0, len(samples), batch):
        metric.process(None, samples[at : at + batch])
    return metric.evaluate(len(samples))


def by_definition(made, classes, ignored=255):
    predicted = np.concatenate([p[t != ignored] for p, t in made])
    label = np.concatenate([t[t != ignored] for _, t in made])
    ious, accs = [], []
    for k in range(classes):
        both, either = ((predicted == k) & (label == k)).sum(), ((predicted == k) | (label == k)).sum()
        ious += [both / either] if either else []
        accs += [both / (label == k).sum()] if (label == k).any() else []
    return {"aAcc": (predicted == label).mean(), "mIoU": np.mean(ious), "mAcc": np.mean(accs)}


@pytest.mark.parametrize("ignored", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_against_the_definition_and_mmseg(seed, ignored):
    made = pictures(seed, count=1 + seed, ignored=ignored)
    found = evaluated(StreamingIoU(), made)
    assert found == pytest.approx(by_definition(made, len(CLASSES)), abs=1e-12)
    assert 0.2 < found["mIoU"] < found["mAcc"] < 0.99
    theirs = evaluated(IoUMetric(), made)
    assert {name: round(100 * value, 2) for name, value in found.items()} == {
        name: pytest.approx(float(theirs[name]), abs=0.0051) for name in found
    }


def test_a_metric_forgets_between_evaluations():
    metric = StreamingIoU()
    first = evaluated(metric, pictures(0))
    assert evaluated(metric, pictures(1)) != first
    assert evaluated(metric, pictures(0)) == first


def test_nothing_to_count():
    made = [(np.zeros((4, 5), np.int64), np.full((4, 5), 255, np.uint8))]
    assert np.isnan(list(evaluated(StreamingIoU(boundary=True), made).values())).all()
    metric = StreamingIoU()
    metric.dataset_meta = {"classes": CLASSES}
    assert np.isnan(list(metric.evaluate(0).values())).all()


def near_another(labels, distance):
    """By the definition: a loop over the neighbours of each pixel, what lies outside being another class."""
    height, width = labels.shape
    found = np.zeros((height, width), bool)
    for y, x in np.ndindex(height, width):
        for v in range(y - distance, y + distance + 1):
            for u in range(x - distance, x + distance + 1):
                outside = not (0 <= v < height and 0 <= u < width)
                found[y, x] |= outside or labels[v, u] != labels[y, x]
    return found


@pytest.mark.parametrize("ratio", [0.02, 0.06])
def test_boundary_iou_against_the_definition(ratio):
    made = pictures(3, count=3)
    found = evaluated(StreamingIoU(boundary=True, dilation_ratio=ratio, classwise=True), made)
    both, either = np.zeros(len(CLASSES)), np.zeros(len(CLASSES))
    for predicted, label in made:
        distance = max(1, round(ratio * np.hypot(*label.shape)))
        edges = []
        for labels in (np.where(label == 255, 255, predicted), label):
            edges.append(near_another(labels.astype(int), distance) & (label != 255))
        for k in range(len(CLASSES)):
            ours, truth = edges[0] & (predicted == k), edges[1] & (label == k)
            both[k] += (ours & truth).sum()
            either[k] += (ours | truth).sum()
    expected = np.mean([b / e for b, e in zip(both, either, strict=True) if e])
    assert found["boundary_mIoU"] == pytest.approx(expected, abs=1e-12)
    assert 0 < found["boundary_mIoU"] < 1


def test_by_config_with_table():
    metric = METRICS.build(dict(type="bestiary.StreamingIoU", iou_metrics=["mIoU"], prefix="ade", classwise=True))
    found = evaluated(metric, pictures())
    assert set(found) == {"ade/aAcc", "ade/mIoU", "ade/mAcc", *(f"ade/IoU/{name}" for name in CLASSES)}
    assert np.isnan(found["ade/IoU/g"])
    assert metric.tables[0].row_count == len(CLASSES)


@pytest.mark.parametrize(
    ("predicted", "label", "message"),
    [
        (np.zeros((3, 4), np.int64), np.full((3, 4), 7, np.uint8), "0.png: the label has the value 7; there are 7"),
        (np.full((3, 4), 9), np.zeros((3, 4), np.uint8), "0.png: the prediction has the value 9; there are 7"),
        (np.zeros((3, 4), np.int64), np.zeros((4, 3), np.uint8), r"the prediction is \(3, 4\), the label \(4, 3\)"),
    ],
)
def test_pictures_that_do_not_fit(predicted, label, message):
    with pytest.raises(InputError, match=message):
        evaluated(StreamingIoU(), [(predicted, label)])
    with pytest.raises(ValueError, match="it has .'mIoU'., mmseg's IoUMetric others"):
        StreamingIoU(iou_metrics=["mDice"])
