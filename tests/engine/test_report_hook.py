"""The hook that keeps evidence: which pictures count, in one process and in two, and what it finds of them."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.structures import BaseDataElement, InstanceData

from bestiary.engine.report import evidence, hook
from bestiary.inputs.class_sample import ClassSample

PICTURES, CLASSES = 7, 3


class Data:
    """`instances` of picture k: one object of class k % CLASSES."""

    metainfo = dict(classes=("a", "b", "c"), palette=[(1, 2, 3)] * 3)

    def __len__(self):
        return PICTURES

    def get_data_info(self, index):
        box = [index, index, index + 10, index + 10]
        entry = dict(bbox=box, bbox_label=index % CLASSES, ignore_flag=0)
        return dict(img_path=f"{index}.jpg", instances=[entry], height=32, width=32)


class Loader:
    def __init__(self, batches):
        self.dataset, self.batches = Data(), batches

    def __len__(self):
        return self.batches


def classified(index):
    score = torch.full((CLASSES,), 0.1)
    score[(index + (index == 4)) % CLASSES] = 0.8  # picture 4 is wrong
    return ClassSample(metainfo=dict(img_path=f"{index}.jpg")).set_gt_label(index % CLASSES).set_prediction(score)


def detected(index):
    sample = BaseDataElement(metainfo=dict(img_path=f"{index}.jpg"))
    box = torch.tensor([[index, index, index + 10.0, index + 10]])
    label = torch.tensor([index % CLASSES])
    sample.pred_instances = InstanceData(bboxes=box, labels=label, scores=torch.tensor([0.9]))
    return sample


def evaluate(work_dir, orders, sample, monkeypatch, batch=2):
    """An evaluation in which process r sees the pictures `orders[r]`, the last ones first, as a race would have it."""
    for rank in reversed(range(len(orders))):
        monkeypatch.setattr(hook, "get_dist_info", lambda rank=rank: (rank, len(orders)))
        batches = [orders[rank][i : i + batch] for i in range(0, len(orders[rank]), batch)]
        loader = Loader(len(batches))
        messages = []
        logger = SimpleNamespace(warning=messages.append, info=messages.append)
        runner = SimpleNamespace(val_dataloader=loader, work_dir=work_dir, iter=5, epoch=1, logger=logger)
        ours = hook.ReportHook()
        ours.before_val_epoch(runner)
        for number, part in enumerate(batches):
            ours.after_val_iter(runner, number, None, [sample(index) for index in part])
        assert messages == [] and ours.failed == ""
    return evidence.read_evidence(work_dir)


@pytest.mark.parametrize("orders", [[range(7)], [[0, 2, 4, 6], [1, 3, 5, 0]]], ids=["one", "two"])
def test_each_picture_counts_once(orders, tmp_path, monkeypatch):
    """Two processes see 8 of 7 pictures: the sampler gives the second one the first picture again."""
    found = evaluate(tmp_path, [list(order) for order in orders], classified, monkeypatch)
    matrix, names = evidence.confusion_of(found)
    assert (found.pictures, found.total, found.parts, names) == (7, 7, len(orders), ["a", "b", "c"])
    np.testing.assert_array_equal(matrix, [[3, 0, 0], [0, 1, 1], [0, 0, 2]])
    assert found.extremes["worst"][0]["path"] == "4.jpg" and found.palette == [[1, 2, 3]] * 3


@pytest.mark.parametrize("order", [range(7), [3, 1, 0, 2, 6, 5, 4]], ids=["in order", "another order"])
def test_objects_are_those_of_the_picture(order, tmp_path, monkeypatch):
    """A sampler of another order is no reason to compare with another picture."""
    found = evaluate(tmp_path, [list(order)], detected, monkeypatch)
    assert found.arrays["objects"].tolist() == [3, 2, 2]
    assert [curve.ap for curve in evidence.curves_of(found)] == [1, 1, 1]
    np.testing.assert_array_equal(evidence.confusion_of(found)[0], np.diag([3, 2, 2, 0]))


def test_a_model_of_another_kind_leaves_no_evidence(tmp_path, monkeypatch):
    plain = BaseDataElement(metainfo=dict(img_path="a.jpg"))
    assert evaluate(tmp_path, [list(range(7))], lambda index: plain, monkeypatch) is None


def test_a_failure_is_said_once_and_ends_the_collecting(tmp_path, monkeypatch):
    messages = []
    logger = SimpleNamespace(warning=messages.append)
    loader = Loader(2)
    runner = SimpleNamespace(val_dataloader=loader, work_dir=tmp_path, iter=5, epoch=1, logger=logger)
    ours = hook.ReportHook()
    broken = detected(0)
    broken.pred_instances = InstanceData(bboxes=torch.zeros(1, 4), labels=torch.tensor([99]), scores=torch.ones(1))
    ours.before_val_epoch(runner)
    ours.after_val_iter(runner, 0, None, [broken])
    ours.after_val_iter(runner, 1, None, [broken])
    ours.after_val_epoch(runner, {})
    assert len(messages) == 1 and messages[0].startswith("no report page of this run: IndexError: ")
    assert evidence.read_evidence(tmp_path) is None
