"""mmdet's own packaged configs on top of compat: build, a loss with backward, a prediction, on small random input."""

import numpy as np
import pytest
import torch

SIZES = ((121, 128), (128, 107))  # of the two pictures of a batch
SMALL = ((61, 64), (64, 53))  # where every proposal costs as much as a picture
CONFIGS = {
    "mask_rcnn/mask-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py": SMALL,
    "retinanet/retinanet_r18_fpn_1x_coco.py": SIZES,
    "fcos/fcos_r18_fpn_gn-head-center-normbbox-centeronreg-giou_8xb8-amp-lsj-200e_coco.py": SIZES,
    "atss/atss_r18_fpn_8xb8-amp-lsj-200e_coco.py": SIZES,
    "cascade_rcnn/cascade-rcnn_r18_fpn_8xb8-amp-lsj-200e_coco.py": SMALL,
    "cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py": SMALL,
    "deformable_detr/deformable-detr_r50_16xb2-50e_coco.py": SIZES,
    "dino/dino-4scale_r50_8xb2-12e_coco.py": ((208, 203),),  # 900 queries want 900 tokens
    "mask2former/mask2former_r50_8xb2-lsj-50e_coco.py": SIZES,
    "rtmdet/rtmdet_tiny_8xb32-300e_coco.py": SIZES,
    "rtmdet/rtmdet-ins_tiny_8xb32-300e_coco.py": ((128, 96),) * 2,  # as from its pipeline: one size, of whole strides
    "ssd/ssdlite_mobilenetv2-scratch_8xb24-600e_coco.py": ((320, 320),),  # mended: it could not predict
    "solov2/solov2-light_r18_fpn_ms-3x_coco.py": SIZES,
    "yolox/yolox_tiny_8xb8-300e_coco.py": SIZES,
    "dcn/faster-rcnn_r50-dconv-c3-c5_fpn_1x_coco.py": SMALL,
    "dcn/faster-rcnn_r50_fpn_dpool_1x_coco.py": SMALL,
    "dcnv2/faster-rcnn_r50-mdconv-c3-c5_fpn_1x_coco.py": SMALL,
    "dcnv2/faster-rcnn_r50_fpn_mdpool_1x_coco.py": SMALL,
    "carafe/mask-rcnn_r50_fpn-carafe_1x_coco.py": SMALL,
    "point_rend/point-rend_r50-caffe_fpn_ms-1x_coco.py": SMALL,
}


def batch(sizes, with_mask, num_classes=80, seed=0):
    """Random pictures with three boxes each, one small; each box holds an elliptic mask if that is wanted."""
    from mmdet.structures import DetDataSample
    from mmdet.structures.bbox import HorizontalBoxes
    from mmdet.structures.mask import BitmapMasks
    from mmengine.structures import InstanceData

    rng = np.random.default_rng(seed)
    inputs, samples = [], []
    for index, (h, w) in enumerate(sizes):
        size = rng.uniform([0.4, 0.3, 0.1], [0.7, 0.5, 0.2], (2, 3)).T * [w, h]
        corner = rng.uniform(0, 1, (3, 2)) * ([w, h] - size)
        boxes = np.concatenate([corner, corner + size], axis=1)
        y, x = np.mgrid[:h, :w] + 0.5
        centre, radius = (corner + size / 2)[..., None, None], (size / 2)[..., None, None]
        masks = ((x - centre[:, 0]) / radius[:, 0]) ** 2 + ((y - centre[:, 1]) / radius[:, 1]) ** 2 <= 1
        truth = InstanceData(
            bboxes=HorizontalBoxes(torch.tensor(boxes, dtype=torch.float32)),
            labels=torch.tensor(rng.integers(num_classes, size=3)),
        )
        if with_mask:
            truth.masks = BitmapMasks(masks.astype(np.uint8), h, w)
        ignored = InstanceData(bboxes=HorizontalBoxes(torch.zeros(0, 4)), labels=torch.zeros(0, dtype=torch.long))
        shape = dict(img_id=index, img_shape=(h, w), ori_shape=(h, w), scale_factor=(1.0, 1.0), flip=False)
        samples.append(DetDataSample(metainfo=shape, gt_instances=truth, ignored_instances=ignored))
        inputs.append(torch.tensor(rng.integers(256, size=(3, h, w)), dtype=torch.uint8))
    return dict(inputs=inputs, data_samples=samples)


def loads_masks(node):
    """Whether a pipeline reads masks."""
    if isinstance(node, dict):
        return node.get("with_mask", False) or any(loads_masks(child) for child in node.values())
    return isinstance(node, (list, tuple)) and any(loads_masks(child) for child in node)


def keep_a_few_unsure(node):
    """Settings of a prediction: an untrained network is sure of nothing, a threshold would leave nothing to look at."""
    for key in ("score_thr", "filter_thr", "mask_score_thr", "mask_thr"):
        if key in node:
            node[key] = 0.0
    for key in ("max_per_img", "max_per_image"):
        if key in node:
            node[key] = min(node[key], 10)
    for child in node.values():
        if isinstance(child, dict):
            keep_a_few_unsure(child)


@pytest.mark.parametrize(("path", "sizes"), CONFIGS.items(), ids=CONFIGS)
def test_packaged_config(path, sizes, packaged, train_step):
    model, config = packaged("mmdet", path)
    with_mask = loads_masks(config.train_dataloader)
    model.data_preprocessor.batch_augments = None  # they scale and pad to the sizes of real pictures
    train_step(model, batch(sizes, with_mask))

    for part in model.modules():
        keep_a_few_unsure(getattr(part, "test_cfg", None) or {})
    model.eval()
    with torch.no_grad():
        results = model(**model.data_preprocessor(batch(sizes[:1], with_mask), training=False), mode="predict")
    assert len(results) == 1
    found = results[0].pred_instances
    assert len(found) > 0
    assert found.bboxes.shape == (len(found), 4) and torch.isfinite(found.bboxes).all()
    assert found.scores.shape == (len(found),) and ((found.scores >= 0) & (found.scores <= 1)).all()
    assert found.labels.dtype == torch.int64 and ((found.labels >= 0) & (found.labels < 80)).all()
    assert ("masks" in found) == with_mask
    if with_mask:
        assert found.masks.shape == (len(found), *sizes[0]) and found.masks.dtype == torch.bool
