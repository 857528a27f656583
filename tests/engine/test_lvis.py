"""LVIS's config on a small file in its form: read by mmdet's data set, scored by our metric."""

import json

import cv2
import numpy as np
import pytest
import torch
from mmdet.registry import DATASETS
from mmengine.registry import init_default_scope
from pycocotools import mask as rle_masks
from shares import one_day_in

from bestiary.engine.configs import load_config
from bestiary.registry import METRICS

pytest.importorskip("lvis", reason="lvis is not installed: pip install bestiary[lvis]")


@pytest.fixture
def root(tmp_path):
    """Three pictures; objects of a frequent, a common and a rare class."""
    from mmdet.datasets import LVISV1Dataset

    rng = np.random.default_rng(0)
    (tmp_path / "val2017").mkdir()
    images, annotations = [], []
    for number in (1, 2, 3):
        cv2.imwrite(str(tmp_path / f"val2017/{number}.jpg"), rng.integers(256, size=(60, 80, 3), dtype=np.uint8))
        url = f"http://images.cocodataset.org/val2017/{number}.jpg"
        images.append(
            dict(id=number, width=80, height=60, coco_url=url, neg_category_ids=[9], not_exhaustive_category_ids=[])
        )
        for category, left in ((3, 5), (7, 40)):
            outline = [left, 10, left + 30, 10, left + 30, 45, left, 45]
            box = [left, 10, 30, 35]
            entry = dict(id=len(annotations) + 1, image_id=number, category_id=category, bbox=box, area=1050.0)
            annotations.append(entry | dict(segmentation=[outline]))
    frequencies = {3: "f", 7: "r"}
    categories = [
        dict(id=number, name=name, frequency=frequencies.get(number, "c"))
        for number, name in enumerate(LVISV1Dataset.METAINFO["classes"], 1)
    ]
    (tmp_path / "annotations").mkdir()
    document = dict(images=images, annotations=annotations, categories=categories)
    (tmp_path / "annotations/lvis_v1_val.json").write_text(json.dumps(document))
    return tmp_path


@one_day_in(4, 0)
def test_read_and_scored(root):
    cfg = load_config("poolformer/mask-rcnn_poolformer-s12_fpn_1x_lvis-v1")
    init_default_scope("mmdet")
    cfg.val_dataloader.dataset.data_root = str(root)
    data = DATASETS.build(cfg.val_dataloader.dataset)
    assert len(data) == 3 and len(data.metainfo["classes"]) == cfg.model.roi_head.bbox_head.num_classes == 1203
    for heads in ("bbox_head", "mask_head"):
        assert cfg.model.roi_head[heads].num_classes == 1203
    cfg.val_evaluator.ann_file = str(root / "annotations/lvis_v1_val.json")
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = data.metainfo
    for index in range(3):
        sample = data[index]["data_samples"]
        truth = sample.gt_instances
        assert truth.labels.tolist() == [2, 6]
        height, width = sample.ori_shape
        keep = [0, 1] if index else [0]  # the rare one of the first picture is missed
        masks = []
        for left in (5, 40):
            outline = [left, 10, left + 30, 10, left + 30, 45, left, 45]
            masks.append(rle_masks.merge(rle_masks.frPyObjects([outline], height, width)))
        boxes = truth.bboxes.tensor  # of the picture as it is: annotations are loaded behind the change of size
        found = dict(
            bboxes=boxes[keep], labels=truth.labels[keep], scores=torch.tensor([0.9, 0.8])[: len(keep)],
            masks=[masks[k] for k in keep],
        )  # fmt: skip
        metric.process(None, [dict(img_id=sample.img_id, ori_shape=sample.ori_shape, pred_instances=found)])
    scores = metric.evaluate(3)
    assert scores["lvis/bbox_mAP_f"] == pytest.approx(1) and scores["lvis/segm_mAP_f"] == pytest.approx(1)
    # Two of three: precision 1 up to recall 2/3, which is 67 of 101 points.
    assert scores["lvis/bbox_mAP_r"] == pytest.approx(67 / 101) == scores["lvis/segm_mAP_r"]
    assert scores["lvis/bbox_mAP"] == pytest.approx((1 + 67 / 101) / 2)
