"""A report's numbers against independent ones: pycocotools, scikit-learn, and plain loops."""

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from sklearn.metrics import average_precision_score, confusion_matrix, jaccard_score

from bestiary.engine.predictions import Detection
from bestiary.engine.report import collect, curves, evidence, extremes, matching
from bestiary.errors import InputError
from bestiary.inputs.class_sample import ClassSample

SIDE = 60


def boxes(rng, count):
    corners = rng.uniform(0, SIDE - 20, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(6, 20, (count, 2))], axis=1).astype(np.float32)


def near(rng, truth, noise):
    moved = truth + rng.normal(0, noise, truth.shape).astype(np.float32)
    return np.concatenate([moved[:, :2], np.maximum(moved[:, 2:], moved[:, :2] + 1)], axis=1)


def scenes(seed, pictures=12, classes=3, crowds=True):
    """Detections scattered about objects, some of them crowds, scores that may tie."""
    rng = np.random.default_rng(seed)
    for number in range(pictures):
        objects = int(rng.integers(0, 6))
        gt = boxes(rng, objects)
        labels = rng.integers(0, classes, objects)
        crowd = rng.random(objects) < (0.2 if crowds else 0)
        found = np.concatenate([near(rng, gt, 1.0), near(rng, gt, 3.0), boxes(rng, 3)])
        guessed = np.concatenate([labels, rng.integers(0, classes, objects + 3)])
        scores = rng.integers(1, 20, len(found)) / 20
        sample = BaseDataElement(metainfo=dict(img_path=f"{number}.jpg", img_id=number))
        sample.pred_instances = InstanceData(
            bboxes=torch.from_numpy(found), labels=torch.from_numpy(guessed), scores=torch.from_numpy(scores).float()
        )
        instances = [
            dict(bbox=box.tolist(), bbox_label=int(label), ignore_flag=int(flag))
            for box, label, flag in zip(gt, labels, crowd, strict=True)
        ]
        yield sample, dict(img_path=f"{number}.jpg", instances=instances, height=SIDE, width=SIDE)


def by_pycocotools(made, classes):
    truth, found = [], []
    for number, (sample, info) in enumerate(made):
        for entry in info["instances"]:
            x1, y1, x2, y2 = entry["bbox"]
            size = [x1, y1, x2 - x1, y2 - y1]
            common = dict(image_id=number, category_id=entry["bbox_label"], bbox=size, area=size[2] * size[3])
            truth.append(dict(id=len(truth) + 1, iscrowd=entry["ignore_flag"], **common))
        instances = sample.pred_instances
        for box, label, score in zip(instances.bboxes.tolist(), instances.labels, instances.scores, strict=True):
            size = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            found.append(dict(image_id=number, category_id=int(label), bbox=size, score=float(score)))
    reference = COCO()
    images = [dict(id=number, height=SIDE, width=SIDE) for number in range(len(made))]
    categories = [dict(id=k, name=str(k)) for k in range(classes)]
    reference.dataset = dict(images=images, annotations=truth, categories=categories)
    reference.createIndex()
    judge = COCOeval(reference, reference.loadRes(found), "bbox")
    judge.evaluate()
    judge.accumulate()
    return judge.eval["precision"][:, :, :, 0, -1]  # thresholds, recalls, classes


def read_back(folder, collector, **changes):
    facts = dict(classes=["a", "b", "c"], palette=None, pictures=1, total=1, iter=7, epoch=1, world=1) | changes
    evidence.save_part(folder, collector, facts, changes.get("rank", 0))
    return evidence.read_evidence(folder)


@pytest.mark.parametrize("seed", range(4))
def test_precision_of_objects_is_cocos(seed, tmp_path, capsys):
    made = list(scenes(seed))
    collector = collect.collector_for(made[0][0], 3, len(made))
    for sample, info in made:
        collector.add(sample, lambda info=info: info)
    found = evidence.curves_of(read_back(tmp_path, collector))
    expected = by_pycocotools(made, 3)
    for k, curve in enumerate(found):
        there = expected[:, :, k]
        assert curve.occurs and there.min() >= 0
        np.testing.assert_allclose(curve.precision, there[0], atol=1e-9)
        assert curve.ap == pytest.approx(there.mean(), abs=1e-9)
        assert curve.more["AP50"] == pytest.approx(there[0].mean(), abs=1e-9)
        assert curve.more["AP75"] == pytest.approx(there[5].mean(), abs=1e-9)


def iou(a, b):
    width = min(a[2], b[2]) - max(a[0], b[0])
    height = min(a[3], b[3]) - max(a[1], b[1])
    both = max(width, 0) * max(height, 0)
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


def test_confusion_of_objects_by_hand(tmp_path):
    """Pairs of the highest IoU first, whatever the class; what is left over is missed, or false."""
    made = list(scenes(9, crowds=False))
    collector = collect.ObjectsCollector(3, len(made))
    expected = np.zeros((4, 4), int)
    for sample, info in made:
        collector.add(sample, lambda info=info: info)
        instances = sample.pred_instances
        kept = [n for n in range(len(instances)) if instances.scores[n] >= collect.SHOWN]
        free_found, free_truth = set(kept), set(range(len(info["instances"])))
        while True:
            pairs = [
                (iou(instances.bboxes[n].tolist(), info["instances"][g]["bbox"]), n, g)
                for n in free_found
                for g in free_truth
            ]
            if not pairs or max(pairs)[0] < 0.5:
                break
            _, n, g = max(pairs)
            expected[info["instances"][g]["bbox_label"], instances.labels[n]] += 1
            free_found.remove(n)
            free_truth.remove(g)
        for n in free_found:
            expected[3, instances.labels[n]] += 1
        for g in free_truth:
            expected[info["instances"][g]["bbox_label"], 3] += 1
    matrix, names = evidence.confusion_of(read_back(tmp_path, collector))
    assert names == ["a", "b", "c", "nothing"] and expected.sum() > 30
    np.testing.assert_array_equal(matrix, expected)


def test_detections_inside_a_crowd_are_no_false_ones():
    crowd = dict(bbox=[0, 0, 40, 40], bbox_label=1, ignore_flag=1)
    sample = BaseDataElement(metainfo=dict(img_path="a.jpg"))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([[5.0, 5, 15, 15]]), labels=torch.tensor([1]), scores=torch.tensor([0.9])
    )
    collector = collect.ObjectsCollector(2, 1)
    collector.add(sample, lambda: dict(img_path="a.jpg", instances=[crowd]))
    arrays = collector.arrays()
    assert arrays["objects"].sum() == 0 and arrays["confusion"].sum() == 0
    assert arrays["right"].tolist() == [0] and arrays["ignored"].tolist() == [1023]


def test_quality_of_a_picture():
    truth = Detection(np.array([[0, 0, 10, 10], [20, 20, 30, 30]], np.float32), np.array([0, 1]))
    found = Detection(np.array([[0, 0, 10, 8], [40, 40, 50, 50]], np.float32), np.array([0, 1]), np.array([0.9, 0.8]))
    assert [(n, g) for n, g, _ in matching.pair(found, truth)] == [(0, 0)]
    assert matching.quality(found, truth) == (pytest.approx(0.8 / (1 + 0.5 + 0.5)), 1)
    nothing = Detection(np.zeros((0, 4), np.float32), np.zeros(0, int), np.zeros(0))
    assert matching.quality(nothing, nothing) == (1, 0) and matching.quality(nothing, truth) == (0, 0)
    # A detection of another class that fits better takes nothing from the right one.
    better = Detection(np.concatenate([found.boxes, truth.boxes[:1]]), np.array([0, 1, 1]), np.array([0.9, 0.8, 0.7]))
    assert matching.quality(better, truth) == (pytest.approx(0.8 / (1 + 1 + 0.5)), 1)
    assert [(n, g) for n, g, _ in matching.pair(better, truth)] == [(2, 0)]


def classified(rng, count, classes):
    truth = rng.integers(0, classes, count)
    logits = rng.normal(size=(count, classes)) + 1.5 * np.eye(classes)[truth]
    return truth, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def class_samples(truth, scores):
    for number, (label, score) in enumerate(zip(truth, scores, strict=True)):
        sample = ClassSample(metainfo=dict(img_path=f"{number}.jpg")).set_gt_label(int(label))
        yield sample.set_prediction(torch.from_numpy(score).float())


def highest(scores, truth):
    """Precision, the highest at a recall or beyond, by trying every score as a threshold."""
    points = []
    for threshold in np.unique(scores):
        found = scores >= threshold
        right = (found & truth).sum()
        points.append((right / truth.sum(), right / found.sum()))
    return [max((p for r, p in points if r >= recall - 1e-12), default=0) for recall in curves.RECALLS]


def test_classes_agree_with_scikit_learn(tmp_path):
    truth, scores = classified(np.random.default_rng(1), 150, 5)
    collector = None
    for sample in class_samples(truth, scores):
        collector = collector or collect.collector_for(sample, 5, 150)
        collector.add(sample, dict)
    kept = read_back(tmp_path, collector, classes=list("abcde"))
    matrix, names = evidence.confusion_of(kept)
    assert names == list("abcde")
    np.testing.assert_array_equal(matrix, confusion_matrix(truth, scores.argmax(1), labels=range(5)))
    for k, curve in enumerate(evidence.curves_of(kept)):
        own = scores[:, k].astype(np.float32)
        assert curve.ap == pytest.approx(average_precision_score(truth == k, own), abs=1e-6)
        np.testing.assert_allclose(curve.precision, highest(own, truth == k), atol=1e-6)
        assert curve.more["accuracy"] == pytest.approx((scores.argmax(1) == k)[truth == k].mean())


def test_of_many_classes_the_best_of_each_picture_are_kept(tmp_path):
    """The precision that is lost lies beyond the recall that the kept ones reach."""
    truth, scores = classified(np.random.default_rng(2), 200, 40)
    collector = collect.ClassCollector(40, 200)
    for sample in class_samples(truth, scores):
        collector.add(sample, dict)
    arrays = collector.arrays()
    assert arrays["labels"].shape == (200, collect.BEST_CLASSES)
    curve = evidence.curves_of(read_back(tmp_path, collector, classes=[str(k) for k in range(40)]))[3]
    rank = (-scores).argsort(1).argsort(1)[:, 3]
    kept = (rank < collect.BEST_CLASSES) & (truth == 3)
    reached = curves.RECALLS <= kept.sum() / (truth == 3).sum()
    exact = np.array(highest(scores[:, 3], truth == 3))
    # A picture whose class is not among its best is at the end of the list, whatever its score.
    assert np.abs(curve.precision - exact)[reached].max() < 0.05 and reached.sum() > 50


def test_labels_agree_with_scikit_learn(tmp_path):
    rng = np.random.default_rng(3)
    truth = rng.random((80, 4)) < 0.3
    truth[:, 3] = False
    scores = np.clip(rng.random((80, 4)) * 0.7 + 0.3 * truth, 0, 1).astype(np.float32)
    collector = None
    for number in range(80):
        sample = ClassSample(metainfo=dict(img_path=f"{number}.jpg")).set_gt_score(torch.from_numpy(truth[number]))
        sample.set_prediction(torch.from_numpy(scores[number]), 0.5)
        collector = collector or collect.collector_for(sample, 4, 80)
        collector.add(sample, dict)
    kept = read_back(tmp_path, collector, classes=list("abcd"))
    assert kept.kind == "labels" and evidence.confusion_of(kept) is None
    found = evidence.curves_of(kept)
    for k in range(3):
        assert found[k].ap == pytest.approx(average_precision_score(truth[:, k], scores[:, k]))
        np.testing.assert_allclose(found[k].precision, highest(scores[:, k], truth[:, k]), atol=1e-9)
    assert found[3].occurs == 0 and np.isnan(found[3].ap)
    safe = np.clip(scores, 1e-7, 1 - 1e-7)
    likelihood = np.where(truth, np.log(safe), np.log(1 - safe)).mean(1)
    worst = [int(entry["path"].split(".")[0]) for entry in kept.extremes["worst"]]
    assert worst == np.argsort(likelihood)[: extremes.KEPT].tolist()


def test_regions_agree_with_scikit_learn(tmp_path):
    rng = np.random.default_rng(4)
    maps = [(rng.integers(0, 3, (17, 23)), rng.integers(0, 3, (17, 23))) for _ in range(9)]
    for truth, _ in maps:
        truth[0] = 255
    collector = None
    for number, (truth, found) in enumerate(maps):
        sample = BaseDataElement(metainfo=dict(img_path=f"{number}.jpg"))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(truth)[None])
        sample.pred_sem_seg = PixelData(data=torch.from_numpy(found)[None])
        collector = collector or collect.collector_for(sample, 3, 9)
        collector.add(sample, dict)
    kept = read_back(tmp_path, collector)
    pixels = [np.concatenate([pair[i][1:].ravel() for pair in maps]) for i in (0, 1)]
    np.testing.assert_array_equal(evidence.confusion_of(kept)[0], confusion_matrix(*pixels))
    quality = [jaccard_score(t[1:].ravel(), f[1:].ravel(), average="macro") for t, f in maps]
    best = np.argsort(-np.array(quality))
    assert [entry["path"] for entry in kept.extremes["best"]][0] == f"{best[0]}.jpg"
    assert kept.extremes["best"][0]["quality"] == pytest.approx(max(quality), abs=1e-5)
    packed = extremes.unpack_labels(kept.extremes["best"][0]["found"]).labels
    np.testing.assert_array_equal(packed, maps[best[0]][1])


def test_parts_of_two_processes_are_one(tmp_path):
    truth, scores = classified(np.random.default_rng(5), 31, 3)
    whole, halves = collect.ClassCollector(3, 31), [collect.ClassCollector(3, 16) for _ in range(2)]
    for number, sample in enumerate(class_samples(truth, scores)):
        whole.add(sample, dict)
        halves[number % 2].add(sample, dict)
    alone = read_back(tmp_path / "one", whole, pictures=31, total=31)
    for rank in (1, 0):
        together = read_back(tmp_path / "two", halves[rank], pictures=16 - rank, total=31, world=2, rank=rank)
    assert (together.parts, together.pictures) == (2, 31)
    np.testing.assert_array_equal(evidence.confusion_of(together)[0], evidence.confusion_of(alone)[0])
    for one, two in zip(evidence.curves_of(alone), evidence.curves_of(together), strict=True):
        assert one.ap == pytest.approx(two.ap)
    assert together.extremes == alone.extremes
    # Of an earlier evaluation: its part does not count.
    late = read_back(tmp_path / "two", halves[0], pictures=16, total=31, world=2, rank=0, iter=8)
    assert (late.parts, late.world, late.pictures) == (1, 2, 16)


def test_a_large_data_set_is_thinned():
    assert collect.LabelsCollector(1000, 4000).every == 1
    assert collect.LabelsCollector(1000, 40_000).every == 10
    assert collect.ClassCollector(1000, 50_000).every == 1  # ImageNet's validation counts in full
    assert collect.ObjectsCollector(80, 5000).every == 1  # so does COCO's
    assert collect.RegionsCollector(150, 10**7).every == 1


def test_a_damaged_part_is_named(tmp_path):
    path = tmp_path / "report" / "evidence_rank0.npz"
    path.parent.mkdir()
    for content in (b"", b"PK\x03\x04 cut short", b"not an archive"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"evidence_rank0\.npz: cannot be read"):
            evidence.read_evidence(tmp_path)
    assert evidence.read_evidence(tmp_path / "elsewhere") is None


def test_extremes_are_those_of_a_sort():
    values = np.random.default_rng(6).permutation(100)
    kept, made = extremes.Extremes(4), []
    for value in values:
        kept.add(float(value), lambda value=value: made.append(value) or {"path": str(value)})
    record = kept.record()
    assert [entry["path"] for entry in record["best"]] == ["99", "98", "97", "96"]
    assert [entry["path"] for entry in record["worst"]] == ["0", "1", "2", "3"]
    assert len(made) < 60  # most pictures are looked at and left
    few = extremes.Extremes(4)
    for value in (0.1, 0.5, 0.9):
        few.add(value, lambda value=value: {"path": str(value)})
    both = extremes.merged([few.record()])
    paths = [[entry["path"] for entry in both[key]] for key in ("best", "worst")]
    assert sorted(sum(paths, [])) == ["0.1", "0.5", "0.9"] and paths[0][0] == "0.9" and paths[1][0] == "0.1"
