"""COCO's and LVIS's scores: faster-coco-eval against pycocotools, mmdet's metric and counts by hand."""

import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from bestiary.engine.metrics import CocoMetric, LvisMetric
from bestiary.errors import InputError
from bestiary.registry import METRICS
from bestiary.tools.bench_evaluation import synthetic

NAMES = ["mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l", "AR@1", "AR@10", "AR@100"]
NAMES += ["AR_s@100", "AR_m@100", "AR_l@100"]
KEYPOINT_NAMES = ["mAP", "mAP_50", "mAP_75", "mAP_m", "mAP_l", "AR", "AR_50", "AR_75", "AR_m", "AR_l"]


def evaluated(metric, truth, samples, batch=3):
    metric.dataset_meta = {"classes": tuple(entry["name"] for entry in truth["categories"])}
    for at in range(0, len(samples), batch):
        metric.process(None, copy.deepcopy(samples[at : at + batch]))
    with contextlib.redirect_stdout(io.StringIO()):
        return metric.evaluate(len(samples))


def written(tmp_path, truth):
    path = tmp_path / "truth.json"
    path.write_text(json.dumps(truth))
    return str(path)


def by_pycocotools(truth, objects, kind):
    """COCO's own numbers of a list of results, by its own code from end to end."""
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = copy.deepcopy(truth)
        reference.createIndex()
        judge = COCOeval(reference, reference.loadRes(copy.deepcopy(objects)), kind)
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    return judge.stats


def results(truth, samples, kind):
    ids = [entry["id"] for entry in truth["categories"]]
    objects = []
    for sample in samples:
        found = sample["pred_instances"]
        for i, (x1, y1, x2, y2) in enumerate(found["bboxes"].double().tolist()):
            entry = dict(
                image_id=sample["img_id"], category_id=ids[found["labels"][i]], score=float(found["scores"][i])
            )
            shape = dict(bbox=[x1, y1, x2 - x1, y2 - y1]) if kind == "bbox" else dict(segmentation=found["masks"][i])
            objects.append(entry | shape)
    return objects


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
@pytest.mark.parametrize("seed", range(3))
def test_twelve_numbers_each(backend, seed, tmp_path):
    truth, samples = synthetic(images=(1, 23, 60)[seed], instances=(3, 200, 300)[seed], detections=30, seed=seed)
    metric = METRICS.build(
        dict(type="bestiary.CocoMetric", ann_file=written(tmp_path, truth), metric=["bbox", "segm"], backend=backend)
    )
    found = evaluated(metric, truth, samples)
    assert list(found) == [f"coco/{kind}_{name}" for kind in ("bbox", "segm") for name in NAMES]
    for kind in ("bbox", "segm"):
        theirs = by_pycocotools(truth, results(truth, samples, kind), kind)
        np.testing.assert_allclose([found[f"coco/{kind}_{name}"] for name in NAMES], theirs, rtol=0, atol=1e-9)
        if seed:
            assert 0.05 < found[f"coco/{kind}_mAP"] < 0.95 and len(set(theirs)) > 8
    assert [table.title for table in metric.tables] == [
        f"{k} by {t}" for k in ("bbox", "segm") for t in ("size", "class")
    ]


def test_as_mmdets_metric(tmp_path):
    """Its first six numbers, a class's AP, and what it takes as truth where there is no file."""
    from mmdet.evaluation import CocoMetric as MmdetCocoMetric  # after bestiary, which provides mmcv._ext

    truth, samples = synthetic(images=17, instances=90, detections=40, seed=5)
    common = dict(ann_file=written(tmp_path, truth), metric=["bbox", "segm"], classwise=True)
    ours, theirs = (evaluated(kind(**common), truth, samples) for kind in (CocoMetric, MmdetCocoMetric))
    for name in NAMES[:6]:
        for kind in ("bbox", "segm"):
            assert ours[f"coco/{kind}_{name}"] == pytest.approx(theirs[f"coco/{kind}_{name}"], abs=0.00051)
    # mmdet gives the classes' of the last kind, -1 as not a number; ours those of the first.
    common["metric"] = "segm"
    ours = evaluated(CocoMetric(**common), truth, samples)
    classes = {name: value for name, value in ours.items() if name.endswith("_precision") and value > -1}
    assert len(classes) > 20
    assert all(theirs[name] == pytest.approx(value, abs=0.00051) for name, value in classes.items())
    by_image = {sample["img_id"]: [] for sample in samples}
    order = [entry["id"] for entry in truth["categories"]]
    for entry in truth["annotations"]:
        x, y, width, height = entry["bbox"]
        by_image[entry["image_id"]].append(
            dict(bbox=[x, y, x + width, y + height], bbox_label=order.index(entry["category_id"]), ignore_flag=0)
        )
    carried = [sample | {"instances": by_image[sample["img_id"]]} for sample in samples]
    ours, theirs = (evaluated(kind(), truth, carried) for kind in (CocoMetric, MmdetCocoMetric))
    assert all(
        ours[f"coco/bbox_{name}"] == pytest.approx(theirs[f"coco/bbox_{name}"], abs=0.00051) for name in NAMES[:6]
    )


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_nothing_found(backend, tmp_path):
    truth, samples = synthetic(images=3, instances=9, detections=0, seed=0)
    metric = CocoMetric(written(tmp_path, truth), ["bbox", "segm"], backend)
    found = evaluated(metric, truth, samples)
    assert set(found.values()) <= {0.0, -1.0} and found["coco/bbox_mAP"] == found["coco/segm_AR@100"] == 0


def test_masks_as_pictures_or_run_lengths(tmp_path):
    truth, samples = synthetic(images=4, instances=20, detections=9, seed=2)
    path = written(tmp_path, truth)
    expected = evaluated(CocoMetric(path, "segm"), truth, samples)
    decoded = copy.deepcopy(samples)
    for sample in decoded:
        masks = coco_mask.decode(sample["pred_instances"]["masks"]).transpose(2, 0, 1)
        sample["pred_instances"]["masks"] = torch.from_numpy(masks.astype(bool))
    metric = CocoMetric(path, "segm")
    assert evaluated(metric, truth, decoded) == expected
    metric.process(None, decoded[:1])
    assert len(metric.results[0]["masks"]) == 9 and all(
        isinstance(counts, str) for counts in metric.results[0]["masks"]
    )


def boundary_of(mask, distance):
    """Pixels of a mask within `distance` rows and columns of one outside it, or of the picture's edge."""
    height, width = mask.shape
    framed = np.pad(mask.astype(bool), distance)
    inside = np.ones((height, width), bool)
    for dy in range(2 * distance + 1):
        for dx in range(2 * distance + 1):
            inside &= framed[dy : dy + height, dx : dx + width]
    return mask.astype(bool) & ~inside


def test_boundary_iou_of_one_object(tmp_path):
    """AP is the share of thresholds that the lesser of mask IoU and boundary IoU reaches."""
    truth = dict(images=[dict(id=1, height=60, width=80)], categories=[dict(id=1, name="a")])
    label, guess = np.zeros((60, 80), np.uint8), np.zeros((60, 80), np.uint8)
    label[10:50, 10:60], guess[10:50, 11:60] = 1, 1
    distance = round(0.02 * np.hypot(60, 80))
    edges = boundary_of(label, distance), boundary_of(guess, distance)
    iou = (edges[0] & edges[1]).sum() / (edges[0] | edges[1]).sum()
    assert 0.5 < iou < 0.9 < (label & guess).sum() / (label | guess).sum()
    rle = coco_mask.encode(np.asfortranarray(label))
    counts = dict(size=[60, 80], counts=rle["counts"].decode())
    truth["annotations"] = [
        dict(id=1, image_id=1, category_id=1, bbox=[10, 10, 50, 40], area=2000, iscrowd=0, segmentation=counts)
    ]
    found = dict(scores=[0.9], labels=[0], bboxes=[[11, 10, 60, 50]])
    instances = {key: torch.tensor(value) for key, value in found.items()} | {"masks": torch.from_numpy(guess)[None]}
    samples = [dict(img_id=1, ori_shape=(60, 80), pred_instances=instances)]
    scores = evaluated(CocoMetric(written(tmp_path, truth), ["segm", "boundary"]), truth, samples)
    assert scores["coco/segm_mAP"] > scores["coco/boundary_mAP"]
    assert scores["coco/boundary_mAP"] == pytest.approx((np.linspace(0.5, 0.95, 10) <= iou).mean())


@pytest.mark.parametrize("backend", ["faster", "pycocotools"])
def test_keypoints(backend, tmp_path):
    rng = np.random.default_rng(0)
    truth = dict(
        images=[dict(id=i, height=200, width=200) for i in range(1, 9)], categories=[dict(id=1, name="person")]
    )
    truth["annotations"], samples, objects = [], [], []
    for image in truth["images"]:
        points = rng.uniform(20, 180, (3, 17, 2))
        for one in points:
            seen = rng.integers(0, 3, 17)
            low, high = one.min(0), one.max(0)
            truth["annotations"].append(
                dict(
                    id=len(truth["annotations"]) + 1,
                    image_id=image["id"],
                    category_id=1,
                    bbox=[*low, *(high - low)],
                    area=float(np.prod(high - low) / rng.choice([3, 12])),
                    iscrowd=0,
                    keypoints=np.concatenate([one, seen[:, None]], 1).ravel().tolist(),
                    num_keypoints=int((seen > 0).sum()),
                )
            )
        guesses = np.repeat(points, 2, 0) + rng.normal(0, 5, (6, 17, 2)) * rng.random((6, 1, 1))
        scores = rng.random(6)
        instances = dict(bboxes=np.zeros((6, 4)), labels=np.zeros(6, int), scores=scores, keypoints=guesses)
        instances = {key: torch.as_tensor(value) for key, value in instances.items()}
        samples.append(dict(img_id=image["id"], ori_shape=(200, 200), pred_instances=instances))
        for guess, score in zip(guesses, scores, strict=True):
            flat = np.concatenate([guess, np.ones((17, 1))], 1).ravel().tolist()
            objects.append(dict(image_id=image["id"], category_id=1, score=float(score), keypoints=flat))
    found = evaluated(CocoMetric(written(tmp_path, truth), "keypoints", backend), truth, samples)
    theirs = by_pycocotools(truth, objects, "keypoints")
    assert list(found) == [f"coco/keypoints_{name}" for name in KEYPOINT_NAMES]
    np.testing.assert_allclose(list(found.values()), theirs, rtol=0, atol=1e-9)
    assert 0.1 < theirs[0] < 0.99


def lvis_of(truth):
    """A set in which every class is looked for in every picture: LVIS's rules ask for what COCO's do."""
    truth = copy.deepcopy(truth)
    for number, entry in enumerate(truth["categories"]):
        entry["frequency"] = "rcf"[number % 3]
    everything = [entry["id"] for entry in truth["categories"]]
    for image in truth["images"]:
        image |= dict(neg_category_ids=everything, not_exhaustive_category_ids=[])
    return truth


def test_lvis_where_it_is_coco(tmp_path):
    truth, samples = synthetic(images=25, instances=150, detections=40, seed=3)
    truth = lvis_of(truth)
    metric = METRICS.build(dict(type="bestiary.LvisMetric", ann_file=written(tmp_path, truth), metric=["bbox", "segm"]))
    found = evaluated(metric, truth, samples)
    coco = CocoMetric(written(tmp_path, truth), ["bbox", "segm"], "pycocotools", classwise=True)
    expected = evaluated(coco, truth, samples)
    for kind in ("bbox", "segm"):
        for name in NAMES[:6]:
            assert found[f"lvis/{kind}_{name}"] == pytest.approx(expected[f"coco/{kind}_{name}"], abs=1e-9)
    for letter in "rcf":
        names = [entry["name"] for entry in truth["categories"] if entry["frequency"] == letter]
        values = [expected[f"coco/{name}_precision"] for name in names]
        values = [value for value in values if value > -1]
        assert found[f"lvis/bbox_mAP_{letter}"] == pytest.approx(np.mean(values), abs=1e-9)


def test_lvis_leaves_out_what_was_not_looked_for(tmp_path):
    """One object of class 1, found; false positives before it of a class that is absent, unknown, not exhaustive."""
    categories = [dict(id=k, name=f"c{k}", frequency="f") for k in (1, 2)]
    box = [10.0, 10.0, 40.0, 40.0]

    def scores(image, label):
        """AP with one false positive of class `label` in the picture `image`, ahead of all that is right."""
        truth = dict(
            images=[
                dict(id=1, height=99, width=99, neg_category_ids=[], not_exhaustive_category_ids=[]),
                dict(id=2, height=99, width=99, **image),
            ],
            categories=categories,
            annotations=[dict(id=k, image_id=1, category_id=k, bbox=box, area=1600.0) for k in (1, 2)],
        )
        found = [
            dict(bboxes=[[10.0, 10, 50, 50]] * 2, labels=[0, 1], scores=[0.5, 0.5]),
            dict(bboxes=[[1.0, 1, 50, 50]], labels=[label], scores=[0.9]),
        ]
        samples = [
            dict(
                img_id=number,
                ori_shape=(99, 99),
                pred_instances={key: torch.tensor(value) for key, value in one.items()},
            )
            for number, one in enumerate(found, 1)
        ]
        return evaluated(LvisMetric(written(tmp_path, truth)), truth, samples)["lvis/bbox_mAP"]

    assert scores(dict(neg_category_ids=[], not_exhaustive_category_ids=[]), 1) == pytest.approx(1)
    assert scores(dict(neg_category_ids=[2], not_exhaustive_category_ids=[]), 1) == pytest.approx(0.75)
    assert scores(dict(neg_category_ids=[2], not_exhaustive_category_ids=[2]), 1) == pytest.approx(1)


def test_results_are_written(tmp_path):
    truth, samples = synthetic(images=5, instances=20, detections=12, seed=4)
    prefix = tmp_path / "deep" / "results"
    metric = CocoMetric(
        None or written(tmp_path, truth), ["bbox", "segm"], format_only=True, outfile_prefix=str(prefix)
    )
    assert evaluated(metric, truth, samples) == {}
    for kind in ("bbox", "segm"):
        objects = json.loads(prefix.with_suffix(f".{kind}.json").read_text())
        np.testing.assert_array_equal(
            by_pycocotools(truth, objects, kind), by_pycocotools(truth, results(truth, samples, kind), kind)
        )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (dict(metric="box"), "no metric 'box'; there are bbox, segm, boundary, keypoints"),
        (dict(backend="fast"), "no backend 'fast'; there are faster, pycocotools"),
        (dict(metric="boundary", backend="pycocotools"), "pycocotools has no boundary IoU; take backend='faster'"),
        (dict(format_only=True), "format_only wants outfile_prefix"),
        (dict(metric="keypoints"), "metric has 'keypoints', but the model predicts no keypoints: take it out"),
        (dict(metric_items=["mAP_60"]), "no metric_items 'mAP_60'; there are mAP, mAP_50"),
    ],
)
def test_what_does_not_fit(arguments, message, tmp_path):
    truth, samples = synthetic(images=2, instances=5, detections=5, seed=0)
    with pytest.raises(InputError, match=message):
        evaluated(CocoMetric(written(tmp_path, truth), **arguments), truth, samples)


def test_a_file_of_other_classes(tmp_path):
    truth, samples = synthetic(images=2, instances=5, detections=5, seed=0)
    metric = CocoMetric(written(tmp_path, truth))
    other = truth | {"categories": [dict(id=1, name="unicorn")]}
    with pytest.raises(InputError, match="truth.json: its categories lack unicorn: is it for another data set"):
        evaluated(metric, other, samples)
    with pytest.raises(InputError, match="the samples carry no ground truth; set ann_file"):
        evaluated(CocoMetric(), truth, samples)
