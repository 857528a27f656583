"""Test-time augmentation: views of a picture, and models that merge what is predicted on them."""

import copy
from typing import Any

import torch
from mmengine.config import Config
from mmengine.model import BaseTTAModel
from mmengine.structures import InstanceData

from ..errors import InputError
from ..inputs.class_sample import ClassSample
from ..registry import MODELS
from .configs import base_dataset

SEGMENTATION_SCALES = (0.75, 1.0, 1.25)
FULL_CROP = 1.0  # the second crop of a classifier: the whole of the shorter side
FLIP_KEYS = ("flip", "flip_direction")


@MODELS.register_module()
class ClassifierTTA(BaseTTAModel):
    """The mean of the probabilities of every view, and of its mirror image if `flip`."""

    def __init__(self, module: Any, flip: bool = True, data_preprocessor: Any = None) -> None:
        super().__init__(module, data_preprocessor)
        self.flip = flip

    def test_step(self, data: dict[str, Any]) -> list[ClassSample]:
        """One sample a picture, from `inputs` and `data_samples`: lists of views, each a list of pictures."""
        views = []
        for inputs, samples in zip(data["inputs"], data["data_samples"], strict=True):
            for mirrored in (False, True)[: 1 + self.flip]:
                pictures = [picture.flip(-1) for picture in inputs] if mirrored else inputs
                views.append(self.module.test_step({"inputs": pictures, "data_samples": copy.deepcopy(samples)}))
        return self.merge_preds(list(zip(*views, strict=True)))

    def merge_preds(self, data_samples_list: list[tuple[ClassSample, ...]]) -> list[ClassSample]:
        """One sample for the views of each picture."""
        merged = []
        for views in data_samples_list:
            score = torch.stack([view.pred_score for view in views]).mean(0)
            merged.append(views[0].set_prediction(score, views[0].get("threshold")))
        return merged


def _detector_tta() -> type:
    """`DetectorTTA`, whose parent needs mmdet: not imported for classifiers and segmentors."""
    from mmcv.ops import batched_nms
    from mmdet.models.test_time_augs import DetTTAModel

    @MODELS.register_module(name="DetectorTTA", force=True)
    class DetectorTTA(DetTTAModel):
        """mmdet's DetTTAModel, which also carries masks: each kept object has the mask of its own view."""

        def _merge_single_sample(self, data_samples: list[Any]) -> Any:
            found = [sample.pred_instances for sample in data_samples]
            metas = [sample.metainfo for sample in data_samples]
            boxes, scores = self.merge_aug_bboxes([f.bboxes for f in found], [f.scores for f in found], metas)
            labels = torch.cat([f.labels for f in found])
            merged = InstanceData()
            if len(boxes):
                kept, places = batched_nms(boxes, scores, labels, self.tta_cfg["nms"])
                places = places[: self.tta_cfg["max_per_img"]]
                kept = kept[: len(places)]
                merged.bboxes, merged.scores, merged.labels = kept[:, :4], kept[:, 4], labels[places]
            else:
                merged.bboxes, merged.scores, merged.labels, places = boxes, scores, labels, labels
            if "masks" in found[0]:
                merged.masks = torch.cat([unflipped(f.masks, m) for f, m in zip(found, metas, strict=True)])[places]
            data_samples[0].pred_instances = merged
            return data_samples[0]

    return DetectorTTA


def unflipped(masks: torch.Tensor, meta: dict[str, Any]) -> torch.Tensor:
    """(N, H, W) of a view that may be flipped, as the picture lies."""
    if not meta.get("flip"):
        return masks
    axes = {"horizontal": (-1,), "vertical": (-2,), "diagonal": (-1, -2)}[meta["flip_direction"]]
    return masks.flip(axes)


def use_tta(cfg: Config) -> str:
    """Make `cfg` test with augmentation; returns what was done, in words.

    Takes the config's `tta_model` and `tta_pipeline`, and makes those that it has not: detectors see a picture and its
    mirror image, segmentors both at three scales, classifiers both in two crops.

    Raises:
        InputError: the test pipeline does not end as one of mmdet's, mmseg's or ours.
    """
    dataset = base_dataset(cfg.test_dataloader.dataset)
    steps = [dict(step) for step in dataset.get("pipeline") or ()]
    packing = str(steps[-1].get("type")).split(".")[-1] if steps else "nothing"
    makers = {"PackDetInputs": _detection, "PackSegInputs": _segmentation, "PackImageInputs": _classification}
    own_model, own_pipeline = cfg.get("tta_model"), cfg.get("tta_pipeline")
    if own_model is None or own_pipeline is None:
        if packing not in makers:
            raise InputError(
                f"--tta: the test pipeline ends in {packing}, not in {', '.join(makers)}: "
                "set tta_model and tta_pipeline in the config"
            )
        model, pipeline = makers[packing](cfg, steps)
    if str((own_model or {}).get("type", packing)).split(".")[-1] in ("DetectorTTA", "PackDetInputs"):
        _detector_tta()
    chosen = dict(own_model if own_model is not None else model)
    dataset["pipeline"] = own_pipeline if own_pipeline is not None else pipeline
    chosen["module"] = cfg.model
    cfg.model = chosen
    sources = [name for name, value in (("tta_model", own_model), ("tta_pipeline", own_pipeline)) if value is not None]
    views = _views(dataset["pipeline"])
    return f"test-time augmentation: {chosen['type']}, {views} views in the pipeline" + (
        f", by the config's {' and '.join(sources)}" if sources else ""
    )


def _views(pipeline: list[dict]) -> int:
    for step in pipeline:
        if str(step["type"]).split(".")[-1] == "TestTimeAug":
            total = 1
            for choices in step["transforms"]:
                total *= len(choices) if isinstance(choices, list | tuple) else 1
            return total
    return 1


def _split(steps: list[dict]) -> tuple[list[dict], list[dict]]:
    """What reads the picture, and what follows."""
    first = next((i for i, step in enumerate(steps) if not str(step["type"]).split(".")[-1].startswith("Load")), 0)
    return steps[:first], steps[first:]


def _detection(cfg: Config, steps: list[dict]) -> tuple[dict, list[dict]]:
    reading, rest = _split(steps)
    packing = dict(rest[-1])
    default = ("img_id", "img_path", "ori_shape", "img_shape", "scale_factor")
    packing["meta_keys"] = tuple(dict.fromkeys((*packing.get("meta_keys", default), *FLIP_KEYS)))
    flips = [dict(type="RandomFlip", prob=1.0), dict(type="RandomFlip", prob=0.0)]
    # The picture as it is comes first: its sample, whose annotations are not flipped, is the one that is kept.
    choices = [*([step] for step in rest[:-1]), flips[::-1], [packing]]
    test_cfg = cfg.model.get("test_cfg") or {}
    limits = test_cfg.get("rcnn") or test_cfg
    nms = limits.get("nms") or dict(type="nms", iou_threshold=0.6)
    tta_cfg = dict(nms=dict(nms), max_per_img=limits.get("max_per_img", 100))
    return dict(type="bestiary.DetectorTTA", tta_cfg=tta_cfg), [*reading, dict(type="TestTimeAug", transforms=choices)]


def _segmentation(cfg: Config, steps: list[dict]) -> tuple[dict, list[dict]]:
    reading, rest = _split(steps)
    sizes = [step for step in rest if step["type"].split(".")[-1] == "Resize"]
    scaled = [[_scaled(step, ratio) for ratio in SEGMENTATION_SCALES] if step in sizes else [step] for step in rest]
    if not sizes:
        scaled.insert(0, [dict(type="Resize", scale_factor=ratio, keep_ratio=True) for ratio in SEGMENTATION_SCALES])
    flips = [dict(type="RandomFlip", prob=0.0), dict(type="RandomFlip", prob=1.0, direction="horizontal")]
    # Annotations are read after the picture was resized and flipped: they stay as they are in the file.
    labels = [[step] for step in reading if step["type"].split(".")[-1] == "LoadAnnotations"]
    reading = [step for step in reading if [step] not in labels]
    place = next((i for i, c in enumerate(scaled) if c[0]["type"].split(".")[-1] == "LoadAnnotations"), len(scaled) - 1)
    choices = [*scaled[:place], flips, *labels, *scaled[place:]]
    return dict(type="mmseg.SegTTAModel"), [*reading, dict(type="TestTimeAug", transforms=choices)]


def _scaled(step: dict, ratio: float) -> dict:
    if "scale" in step:
        scale = step["scale"]
        return step | {"scale": tuple(round(s * ratio) for s in scale) if not isinstance(scale, int) else scale * ratio}
    factor = step.get("scale_factor", 1.0)
    return step | {"scale_factor": tuple(f * ratio for f in factor) if isinstance(factor, tuple) else factor * ratio}


def _classification(cfg: Config, steps: list[dict]) -> tuple[dict, list[dict]]:
    reading, rest = _split(steps)
    choices = []
    for step in rest:
        crops = [step]
        if step["type"].split(".")[-1] == "TimmTransform" and step.get("crop_pct", 0.875) != FULL_CROP:
            crops.append(step | {"crop_pct": FULL_CROP})
        choices.append(crops)
    return dict(type="bestiary.ClassifierTTA"), [*reading, dict(type="TestTimeAug", transforms=choices)]
