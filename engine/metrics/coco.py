"""COCO's and LVIS's average precision, by faster-coco-eval or pycocotools."""

import contextlib
import gc
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmengine.fileio import get_local_path
from mmengine.logging import print_log
from numpy.typing import NDArray
from pycocotools import mask as coco_mask
from rich.table import Table

from ...errors import InputError
from ...registry import METRICS
from .coco_numbers import Evaluated, class_table, numbers, size_table
from .tables import as_text

BACKENDS = ("faster", "pycocotools")
KINDS = {"bbox": "bbox", "segm": "masks", "boundary": "masks", "keypoints": "keypoints"}  # what each wants of a model


@METRICS.register_module()
class CocoMetric(BaseMetric):
    """COCO's scores, in 0..1 and not rounded: `coco/bbox_mAP`, `_mAP_50`, `_mAP_75`, `_mAP_s`, `_m`, `_l`, `_AR@1` ...

    Takes the arguments of mmdet's metric of that name but for its proposals. All twelve of COCO's numbers (ten of
    keypoints) are given, those of a kind of object that does not occur as -1. Two processes give what one gives: the
    samples are put into the order of the data set, and those that a sampler repeats are dropped. Masks are kept as
    run lengths, never as pictures.

    `tables` holds, after each evaluation, two tables a kind: by size and by class.

    Args:
        ann_file: COCO's JSON; read when it is first needed. None: what the samples carry as `instances`.
        metric: 'bbox', 'segm', 'boundary' (boundary IoU of masks, arXiv:2103.16562), 'keypoints', or some of them.
        backend: 'faster' (faster-coco-eval, C++) or 'pycocotools', the second opinion.
        classwise: give `<class>_precision`, too, as mmdet's does, of the first kind.
        proposal_nums: detections a picture and class that count, ascending; precision is of the last.
        iou_thrs: thresholds of IoU; 0.5 to 0.95 in steps of 0.05 if None.
        metric_items: names without the kind, as 'mAP_50', of those that are to be given; all if None.
        format_only: write the results and evaluate nothing (`outfile_prefix` is needed).
        outfile_prefix: writes COCO's results as `<prefix>.bbox.json`, `<prefix>.segm.json`, `<prefix>.keypoints.json`.
        sigmas: of keypoints; those of COCO's 17 if None.
        backend_args: of mmengine's files, for `ann_file`.

    Raises:
        InputError: an argument is unknown; the model predicts no masks or keypoints that are to be evaluated; the
            annotation file has none of the classes.
    """

    default_prefix = "coco"
    lvis = False

    def __init__(
        self,
        ann_file: str | None = None,
        metric: str | Sequence[str] = "bbox",
        backend: str = "faster",
        classwise: bool = False,
        proposal_nums: Sequence[int] = (1, 10, 100),
        iou_thrs: float | Sequence[float] | None = None,
        metric_items: Sequence[str] | None = None,
        format_only: bool = False,
        outfile_prefix: str | None = None,
        sigmas: Sequence[float] | None = None,
        backend_args: dict | None = None,
        collect_device: str = "cpu",
        prefix: str | None = None,
    ) -> None:
        super().__init__(collect_device=collect_device, prefix=prefix)
        name = type(self).__name__
        self.metrics = [metric] if isinstance(metric, str) else list(metric)
        if unknown := [kind for kind in self.metrics if kind not in KINDS]:
            raise InputError(f"{name}: no metric {unknown[0]!r}; there are {', '.join(KINDS)}")
        if backend not in BACKENDS:
            raise InputError(f"{name}: no backend {backend!r}; there are {', '.join(BACKENDS)}")
        if backend == "pycocotools" and (self.lvis or "boundary" in self.metrics):
            what = "LVIS" if self.lvis else "boundary IoU"
            raise InputError(f"{name}: pycocotools has no {what}; take backend='faster'")
        if format_only and outfile_prefix is None:
            raise InputError(f"{name}: format_only wants outfile_prefix, the beginning of the files' names")
        self.ann_file, self.backend, self.classwise, self.backend_args = ann_file, backend, classwise, backend_args
        self.proposal_nums, self.metric_items = sorted(proposal_nums), metric_items
        self.iou_thrs = np.atleast_1d(np.linspace(0.5, 0.95, 10) if iou_thrs is None else iou_thrs)
        self.format_only, self.outfile_prefix, self.sigmas = format_only, outfile_prefix, sigmas
        self.tables: list[Table] = []
        self._truth: dict[str, Any] | None = None

    def process(self, data_batch: Any, data_samples: Sequence[Mapping[str, Any]]) -> None:
        """Remember a picture's `pred_instances`: bboxes (N, 4) as x1, y1, x2, y2; scores; labels; masks (N, H, W) or
        run lengths; keypoints (N, P, 2) and keypoint_scores (N, P)."""
        for sample in data_samples:
            found = sample["pred_instances"]
            kept = {"img_id": sample["img_id"], "shape": tuple(sample["ori_shape"][:2])}
            for key in ("bboxes", "scores", "labels", "mask_scores", "keypoints", "keypoint_scores"):
                if key in found:
                    kept[key] = torch.as_tensor(found[key]).cpu().numpy()
            if "masks" in found:
                kept["masks"], kept["mask_size"] = _run_lengths(found["masks"])
            if self.ann_file is None:
                if "instances" not in sample:
                    raise InputError(f"{type(self).__name__}: the samples carry no ground truth; set ann_file")
                kept["instances"] = sample["instances"]
            self.results.append(kept)

    def evaluate(self, size: int) -> dict[str, float]:
        """The scores over the `size` pictures of all processes."""
        with _uncollected():
            return super().evaluate(size)

    def compute_metrics(self, results: list[dict[str, Any]]) -> dict[str, float]:
        """The scores over all pictures."""
        truth = self._truth_of(results)
        categories = self._categories(truth)
        scores = self._scores(results, truth, categories)
        if self.tables:
            print_log("\n" + as_text(self.tables), "current")
        return scores

    def _scores(
        self, results: Sequence[Mapping[str, Any]], truth: dict[str, Any], categories: Mapping[int, str]
    ) -> dict[str, float]:
        scores: dict[str, float] = {}
        self.tables = []
        for kind in self.metrics:
            objects = self._objects(results, kind, categories)
            if self.outfile_prefix is not None:
                path = Path(f"{self.outfile_prefix}.{'segm' if kind == 'boundary' else kind}.json")
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(json.dumps(objects), encoding="utf-8")
            if self.format_only:
                continue
            evaluated = self._evaluated(truth, objects, kind, categories)
            del objects
            found = numbers(evaluated)
            self.tables += [size_table(kind, evaluated), class_table(kind, evaluated)]
            if self.classwise and kind == self.metrics[0]:
                scores |= {f"{name}_precision": value for name, value in evaluated.by_class().items()}
            scores |= {f"{kind}_{name}": found[name] for name in self._wanted(found)}
        return scores

    def _wanted(self, found: Mapping[str, float]) -> Sequence[str]:
        for name in self.metric_items or ():
            if name not in found:
                raise InputError(f"{type(self).__name__}: no metric_items {name!r}; there are {', '.join(found)}")
        return self.metric_items or list(found)

    def _truth_of(self, results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        if self.ann_file is None:
            return _collected(results, self.dataset_meta["classes"])
        if self._truth is None:
            with get_local_path(self.ann_file, backend_args=self.backend_args) as path:
                self._truth = json.loads(Path(path).read_text(encoding="utf-8"))
        return self._truth

    def _categories(self, truth: Mapping[str, Any]) -> dict[int, str]:
        """Identifiers and names, in the order of the model's labels: mmdet's data sets number them as the file does."""
        wanted = set(self.dataset_meta["classes"])
        found = {entry["id"]: entry["name"] for entry in truth["categories"] if entry["name"] in wanted}
        if len(found) != len(wanted):
            missing = sorted(wanted - set(found.values())) or [f"{len(wanted)} classes of different names"]
            raise InputError(
                f"{self.ann_file}: its categories lack {', '.join(missing[:4])}: is it for another data set?"
            )
        return found

    def _objects(
        self, results: Sequence[Mapping[str, Any]], kind: str, categories: Mapping[int, str]
    ) -> list[dict[str, Any]]:
        """COCO's results, of boxes without masks and of masks without boxes: areas are of what is evaluated."""
        identifiers, objects = list(categories), []
        field = {"bbox": "bboxes"}.get(kind, KINDS[kind])
        for picture in results:
            if field not in picture:
                raise InputError(
                    f"{type(self).__name__}: metric has {kind!r}, but the model predicts no {field}: take it out"
                )
            scores = picture["scores"]
            if field == "masks":
                scores = picture.get("mask_scores", scores)
            order = self._strongest(scores)
            values = _written(picture, field)
            for i in order.tolist():
                category = identifiers[int(picture["labels"][i])]
                entry = {"image_id": picture["img_id"], "category_id": category, "score": float(scores[i])}
                key = {"bboxes": "bbox", "masks": "segmentation"}.get(field, field)
                objects.append(entry | {key: values[i]})
        return objects

    def _strongest(self, scores: np.ndarray) -> np.ndarray:
        return np.arange(len(scores))

    def _evaluated(
        self, truth: dict[str, Any], objects: list[dict[str, Any]], kind: str, categories: Mapping[int, str]
    ) -> Evaluated:
        """Precision and recall of one kind, by the library that was chosen."""
        with contextlib.redirect_stdout(io.StringIO()):  # both tell what they do
            if self.backend == "faster":
                from faster_coco_eval import COCO, COCOeval_faster

                reference = COCO(truth)
                judge = COCOeval_faster(reference, _loaded(reference, objects), kind, lvis_style=self.lvis)
            else:
                from pycocotools.coco import COCO
                from pycocotools.cocoeval import COCOeval

                reference = COCO()
                reference.dataset = truth
                reference.createIndex()
                judge = COCOeval(reference, _results(reference, objects), kind)
            params = judge.params
            params.catIds, params.imgIds = list(categories), reference.getImgIds()
            params.iouThrs = self.iou_thrs
            if kind != "keypoints":
                params.maxDets = list(self.proposal_nums)
            elif self.sigmas is not None:
                params.kpt_oks_sigmas = np.array(self.sigmas)
            judge.evaluate()
            judge.accumulate()
        # Both sort the categories by number; names go along.
        names = [categories[identifier] for identifier in sorted(categories)]
        frequency = {entry["name"]: entry.get("frequency") for entry in truth["categories"]} if self.lvis else {}
        groups = [frequency[name] for name in names] if self.lvis else None
        return Evaluated(
            np.asarray(judge.eval["precision"]),
            np.asarray(judge.eval["recall"]),
            np.asarray(self.iou_thrs),
            list(params.areaRngLbl),
            list(params.maxDets),
            names,
            groups,
        )


@METRICS.register_module()
class LvisMetric(CocoMetric):
    """LVIS's scores (arXiv:1908.03195) as `lvis/bbox_mAP` ...; `_mAP_r`, `_c`, `_f`: of rare, common, frequent classes.

    The 300 best detections of a picture count, whatever their class; those of classes that a picture's annotators did
    not look for are dropped, and unmatched ones of classes not annotated exhaustively there are ignored. By
    faster-coco-eval: the `lvis` package asks for names that NumPy 2 no longer has.
    """

    default_prefix = "lvis"
    lvis = True

    def __init__(self, *args: Any, proposal_nums: Sequence[int] = (300,), **kwargs: Any) -> None:
        super().__init__(*args, proposal_nums=proposal_nums, **kwargs)

    def _strongest(self, scores: np.ndarray) -> np.ndarray:
        return np.sort(np.argsort(-scores, kind="stable")[: self.proposal_nums[-1]])


def _loaded(reference: Any, objects: list[dict[str, Any]]) -> Any:
    """faster-coco-eval's `loadRes` with areas counted at once, and without what is not asked for, as boxes of masks."""
    if not objects or "keypoints" in objects[0]:
        return reference.loadRes(objects)
    masks = "segmentation" in objects[0]
    areas: list[int] = []
    for place in range(0, len(objects) if masks else 0, 128):  # its counter of masks has eight bits
        areas += coco_mask.area([entry["segmentation"] for entry in objects[place : place + 128]]).tolist()
    for place, entry in enumerate(objects):
        entry["id"], entry["iscrowd"] = place + 1, 0
        entry["area"] = areas[place] if masks else entry["bbox"][2] * entry["bbox"][3]
    found = type(reference)()
    found.dataset = {key: reference.dataset[key] for key in ("images", "categories")} | {"annotations": objects}
    found.createIndex()
    return found


@contextlib.contextmanager
def _uncollected() -> Iterator[None]:
    """Without the collector of cycles, which would go through millions of objects again and again and find none."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _results(reference: Any, objects: list[dict[str, Any]]) -> Any:
    """pycocotools' `loadRes`, which cannot take an empty list."""
    if objects:
        return reference.loadRes(objects)
    empty = type(reference)()
    empty.dataset = {**reference.dataset, "annotations": []}
    empty.createIndex()
    return empty


def _run_lengths(masks: Any) -> tuple[NDArray[np.object_], tuple[int, int]]:
    """(N, H, W) or run lengths -> counts as text (N,), and (H, W): one object, which mmengine does not walk through."""
    if not isinstance(masks, list | tuple):
        array = np.asarray(masks.cpu() if isinstance(masks, torch.Tensor) else masks, dtype=np.uint8)
        masks = coco_mask.encode(np.asfortranarray(array.transpose(1, 2, 0))) if len(array) else []
    counts = np.empty(len(masks), object)
    counts[:] = [m["counts"].decode() if isinstance(m["counts"], bytes) else m["counts"] for m in masks]
    return counts, tuple(int(side) for side in masks[0]["size"]) if len(masks) else (0, 0)


def _written(picture: Mapping[str, Any], field: str) -> list[Any]:
    """The values of a field as COCO's results have them."""
    if field == "bboxes":
        boxes = picture["bboxes"].astype(np.float64)
        return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    if field == "keypoints":
        points = picture["keypoints"].astype(np.float64)
        scores = picture.get("keypoint_scores", np.ones(points.shape[:2]))
        return np.concatenate([points[..., :2], scores[..., None]], axis=2).reshape(len(points), -1).tolist()
    return [{"size": list(picture["mask_size"]), "counts": counts} for counts in picture["masks"]]


def _collected(results: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> dict[str, Any]:
    """COCO's annotation file made of what samples carry; areas are the boxes', as in mmdet."""
    images, annotations = [], []
    for picture in results:
        height, width = picture["shape"]
        images.append({"id": picture["img_id"], "height": int(height), "width": int(width)})
        for entry in picture["instances"]:
            x1, y1, x2, y2 = (float(value) for value in entry["bbox"])
            box = [x1, y1, x2 - x1, y2 - y1]
            annotation = {
                "id": len(annotations) + 1,
                "image_id": picture["img_id"],
                "category_id": int(entry["bbox_label"]),
                "bbox": box,
                "area": box[2] * box[3],
                "iscrowd": int(entry.get("ignore_flag", 0)),
            }
            if entry.get("mask"):
                annotation["segmentation"] = entry["mask"]
            annotations.append(annotation)
    categories = [{"id": number, "name": name} for number, name in enumerate(classes)]
    return {"images": images, "annotations": annotations, "categories": categories}
