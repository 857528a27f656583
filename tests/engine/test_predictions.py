"""Samples of models -> records of predictions.json."""

import json

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData, PixelData
from pycocotools import mask as coco_mask

from bestiary.engine.predictions import Classification, Detection, Segmentation, prediction_of
from bestiary.errors import InputError
from bestiary.inputs.class_sample import ClassSample

CLASSES = ["cat", "dog", "owl"]


def detection_sample(count, with_masks=True):
    torch.manual_seed(count)
    corner = torch.rand(count, 2) * 20
    found = InstanceData(
        bboxes=torch.cat([corner, corner + 5 + torch.rand(count, 2)], dim=1),
        labels=torch.arange(count) % 3,
        scores=torch.rand(count),
    )
    if with_masks:
        found.masks = torch.rand(count, 31, 45) > 0.5
    sample = BaseDataElement()
    sample.pred_instances = found
    return sample


@pytest.mark.parametrize("count", [0, 1, 9])
@pytest.mark.parametrize("with_masks", [True, False])
def test_detection(count, with_masks):
    sample = detection_sample(count, with_masks)
    found = prediction_of(sample, score_thr=0.3)
    truth = sample.pred_instances
    kept = [i for i in truth.scores.argsort(descending=True).tolist() if truth.scores[i] >= 0.3]
    assert isinstance(found, Detection) and len(found.boxes) == len(kept) <= count
    record = json.loads(json.dumps(found.record(CLASSES)))["detections"]
    assert len(record) == len(kept)
    for entry, i in zip(record, kept, strict=True):
        x, y, width, height = entry["bbox"]
        assert [x, y, x + width, y + height] == pytest.approx(truth.bboxes[i].tolist(), abs=0.02)
        assert entry["category_id"] == truth.labels[i] and entry["category"] == CLASSES[truth.labels[i]]
        assert entry["score"] == pytest.approx(truth.scores[i].item(), abs=1e-5)
        if with_masks:
            assert (coco_mask.decode(entry["segmentation"]) == truth.masks[i].numpy()).all()
        else:
            assert "segmentation" not in entry


def test_masks_without_boxes_get_boxes():
    sample = detection_sample(2)
    sample.pred_instances.bboxes = torch.zeros(2, 4)
    sample.pred_instances.masks = torch.zeros(2, 31, 45, dtype=torch.bool)
    sample.pred_instances.masks[0, 4:9, 7:30] = True
    sample.pred_instances.scores = torch.tensor([0.9, 0.8])
    found = prediction_of(sample)
    assert found.boxes.tolist() == [[7, 4, 30, 9], [0, 0, 0, 0]]


def test_segmentation():
    labels = torch.randint(0, 3, (1, 13, 17), generator=torch.Generator().manual_seed(0))
    sample = BaseDataElement()
    sample.pred_sem_seg = PixelData(data=labels)
    found = prediction_of(sample)
    assert isinstance(found, Segmentation) and (found.labels == labels[0].numpy()).all()
    shares = found.record(CLASSES)["fractions"]
    assert shares == {
        name: pytest.approx((labels == i).float().mean().item(), abs=1e-5) for i, name in enumerate(CLASSES)
    }
    assert Segmentation(np.full((3, 5), 4)).record(CLASSES)["fractions"] == {"class 4": 1.0}


def test_classification():
    score = torch.tensor([0.1, 0.7, 0.2])
    found = prediction_of(ClassSample().set_pred_score(score).set_pred_label(1), top_k=2)
    assert isinstance(found, Classification)
    assert found.record(CLASSES)["top"] == [
        {"label": 1, "category": "dog", "score": pytest.approx(0.7)},
        {"label": 2, "category": "owl", "score": pytest.approx(0.2)},
    ]
    assert len(prediction_of(ClassSample().set_pred_score(score), top_k=5).labels) == 3


def test_what_cannot_be_drawn_is_said():
    sample = BaseDataElement()
    sample.pred_depth = PixelData(data=torch.rand(1, 3, 3))
    with pytest.raises(InputError, match="the model predicts pred_depth; instances, semantic segmentation"):
        prediction_of(sample)
