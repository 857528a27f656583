"""A trained model that takes picture files, and the ground truth that its config has for them."""

import contextlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from pycocotools import mask as coco_mask

from ..checkpoints.loading import load_weights
from ..errors import InputError
from .configs import base_dataset
from .drawing import Colour, colours_for
from .fit import check_channels
from .predictions import Classification, Detection, Prediction, Segmentation


class Predictor:
    """Model and test pipeline of a config, with the weights of a checkpoint, which have to fit.

    Args:
        cfg: a whole config, with `model` and `test_dataloader` (or `val_dataloader`).
        checkpoint: weights; text in it is never run.
        device: 'cpu', 'cuda:0', ...; by default a GPU if there is one.

    Raises:
        InputError: the config has no pipeline; the checkpoint does not fit.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, device: str | None = None) -> None:
        init_default_scope(cfg.get("default_scope", "mmengine"))
        self.device = torch.device(device or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        settings = dict(cfg.model)
        if cfg.get("data_preprocessor") is not None:
            settings.setdefault("data_preprocessor", cfg.data_preprocessor)
        model = MODELS.build(settings)
        check_channels(model)
        _, meta = load_weights(model, checkpoint)
        self.model = (revert_sync_batchnorm(model) if self.device.type == "cpu" else model).to(self.device).eval()
        self.dataset = _test_dataset(cfg)
        self.pipeline = Compose([step for step in _pipeline(self.dataset) if not _loads_annotations(step)])
        self.classes, self.colours = self._names(meta.get("dataset_meta") or {})

    def _names(self, trained: dict[str, Any]) -> tuple[list[str], list[Colour]]:
        """Names and colours: those that it was trained with, else the config's, else the data set class's."""
        kind = DATASETS.get(self.dataset["type"]) if isinstance(self.dataset["type"], str) else self.dataset["type"]
        trained = {key.lower(): value for key, value in trained.items()}
        sources = [trained, self.dataset.get("metainfo") or {}, getattr(kind, "METAINFO", {})]
        # The colours of another list of classes would say nothing.
        source = next((source for source in sources if source.get("classes")), {})
        classes = [str(name) for name in source.get("classes", ())]
        return classes, colours_for(max(len(classes), 1), source.get("palette"))

    @torch.inference_mode()
    def __call__(self, path: str | Path) -> BaseDataElement:
        """The model's sample for one picture file, on the CPU.

        Raises:
            InputError: the test pipeline cannot take a picture alone.
        """
        try:
            data = self.pipeline(
                dict(img_path=str(path), img_id=0, seg_fields=[], instances=[], reduce_zero_label=False)
            )
        except KeyError as error:
            raise InputError(
                f"{path}: the config's test pipeline asks for {error}, which a picture alone has not"
            ) from error
        return self.model.test_step(pseudo_collate([data]))[0].cpu()


def _test_dataset(cfg: Config) -> dict[str, Any]:
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    if loader is None:
        raise InputError("config: it has no test_dataloader, whose pipeline says how pictures are prepared")
    return base_dataset(loader["dataset"])


def _pipeline(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    if not dataset.get("pipeline"):
        raise InputError("config: test_dataloader.dataset has no pipeline, which says how pictures are prepared")
    return list(dataset["pipeline"])


def _loads_annotations(step: dict[str, Any]) -> bool:
    name = step["type"] if isinstance(step["type"], str) else step["type"].__name__
    return "Load" in name and "Annotation" in name


def ground_truth(cfg: Config, paths: list[Path]) -> dict[Path, Prediction]:
    """What the config's test data say about those of `paths` that are in them; empty where the data are not there."""
    settings = {**_test_dataset(cfg), "pipeline": [], "test_mode": True}
    try:
        with contextlib.redirect_stdout(None):  # pycocotools tells what it reads
            dataset = DATASETS.build(settings)
    except (FileNotFoundError, InputError):
        return {}
    wanted = {path.resolve(): path for path in paths}
    truth: dict[Path, Prediction] = {}
    for index in range(len(dataset)):
        info = dataset.get_data_info(index)
        path = wanted.get(Path(info.get("img_path", "")).resolve())
        if path is not None and (found := _truth_of(info)) is not None:
            truth[path] = found
    return truth


def _truth_of(info: dict[str, Any]) -> Prediction | None:
    if "gt_label" in info:
        return Classification(np.atleast_1d(np.asarray(info["gt_label"], np.int64)))
    if info.get("seg_map_path"):
        return _regions(info)
    if "instances" in info:
        return _objects(info)
    return None


def _regions(info: dict[str, Any]) -> Segmentation:
    from PIL import Image

    labels = np.asarray(Image.open(info["seg_map_path"])).astype(np.int64)
    if info.get("label_map"):
        labels = np.vectorize(lambda label: info["label_map"].get(label, label))(labels)
    if info.get("reduce_zero_label"):
        labels = np.where((labels == 0) | (labels == 255), 255, labels - 1)
    return Segmentation(labels)


def _objects(info: dict[str, Any]) -> Detection:
    objects = [entry for entry in info["instances"] if not entry.get("ignore_flag")]
    boxes = np.array([entry["bbox"] for entry in objects], np.float32).reshape(-1, 4)
    labels = np.array([entry["bbox_label"] for entry in objects], np.int64)
    masks = None
    if objects and all(entry.get("mask") for entry in objects):
        masks = np.stack([_decode(entry["mask"], info["height"], info["width"]) for entry in objects])
    return Detection(boxes, labels, masks=masks)


def _decode(mask: list | dict[str, Any], height: int, width: int) -> np.ndarray:
    """Polygons or RLE, as COCO has them -> (H, W) bool."""
    if isinstance(mask, list):
        mask = coco_mask.merge(coco_mask.frPyObjects(mask, height, width))
    elif isinstance(mask["counts"], list):
        mask = coco_mask.frPyObjects(mask, height, width)
    return coco_mask.decode(mask).astype(bool)
