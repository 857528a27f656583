"""A trained model that takes picture files, and the ground truth that its config has for them."""

import contextlib
import copy
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dataset import Compose, pseudo_collate
from mmengine.model import BaseTTAModel, revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, init_default_scope
from mmengine.structures import BaseDataElement
from PIL import Image
from pycocotools import mask as coco_mask

from ..checkpoints.loading import load_weights
from ..errors import InputError
from .configs import base_dataset
from .drawing import Colour, Picture, colours_for
from .fit import check_channels
from .predictions import Classification, Detection, Prediction, Segmentation
from .tta import use_tta

AHEAD = 4  # batches of pictures that are prepared before they are sorted by size


class Given(NamedTuple):
    """A picture to predict on: a file, or an array (H, W, 3) RGB uint8 in its place; `name` is for messages."""

    name: str
    picture: Picture | None = None


class Predictor:
    """Model and test pipeline of a config, with the weights of a checkpoint, which have to fit.

    Args:
        cfg: a whole config, with `model` and `test_dataloader` (or `val_dataloader`).
        checkpoint: weights, a path or an address; text in it is never run.
        device: 'cpu', 'cuda:0', ...; by default a GPU if there is one.
        tta: test-time augmentation, see `use_tta`; `self.tta` says in words what it does.

    Raises:
        InputError: the config has no pipeline; the checkpoint does not fit; there is no such device.
    """

    def __init__(self, cfg: Config, checkpoint: str | Path, device: str | None = None, tta: bool = False) -> None:
        init_default_scope(cfg.get("default_scope", "mmengine"))
        self.device = _device(device)
        _test_dataset(cfg)
        self.tta = ""
        if tta:
            cfg = copy.deepcopy(cfg)
            cfg.setdefault("test_dataloader", cfg.get("val_dataloader"))
            self.tta = use_tta(cfg)
        settings = dict(cfg.model)
        if cfg.get("data_preprocessor") is not None:
            settings.setdefault("data_preprocessor", cfg.data_preprocessor)
        model = MODELS.build(settings)
        inner = model.module if isinstance(model, BaseTTAModel) else model
        check_channels(inner)
        _, meta = load_weights(inner, checkpoint)
        self.model = (revert_sync_batchnorm(model) if self.device.type == "cpu" else model).to(self.device).eval()
        self.dataset = _test_dataset(cfg)
        steps = without_annotations(_pipeline(self.dataset))
        self.pipeline = Compose(steps)
        self.after_reading = Compose(steps[1:])
        self.read_by = steps[0]
        self.classes, self.colours = self._names(meta.get("dataset_meta") or {})

    def _names(self, trained: dict[str, Any]) -> tuple[list[str], list[Colour]]:
        """Names and colours: those that it was trained with, else the config's, else the data set class's."""
        kind = DATASETS.get(self.dataset["type"]) if isinstance(self.dataset["type"], str) else self.dataset["type"]
        trained = {key.lower(): value for key, value in trained.items()}
        sources = [trained, self.dataset.get("metainfo") or {}, getattr(kind, "METAINFO", {})]
        # The colours of another list of classes would say nothing.
        source = next((source for source in sources if source.get("classes")), {})
        classes = [str(name) for name in source.get("classes", ())] or self._imagenet()
        return classes, colours_for(max(len(classes), 1), source.get("palette"))

    def _imagenet(self) -> list[str]:
        """ImageNet-1k's names in words, where the config's data are ImageNet's and nothing else says them."""
        head = getattr(self.model, "head", None)
        if "imagenet" not in str(self.dataset.get("data_root")) or getattr(head, "num_classes", 0) != 1000:
            return []
        from timm.data import ImageNetInfo

        info = ImageNetInfo()
        return [info.index_to_description(number) for number in range(1000)]

    def __call__(self, path: str | Path) -> BaseDataElement:
        """The model's sample for one picture file, on the CPU.

        Raises:
            InputError: the picture cannot be read; the test pipeline cannot take a picture alone.
        """
        ((_, sample),) = self.samples([Given(str(path))])
        if isinstance(sample, InputError):
            raise sample
        return sample

    def samples(
        self, pictures: Iterable[Given], batch: int = 1
    ) -> Iterator[tuple[Given, BaseDataElement | InputError]]:
        """Each picture with the model's sample for it, on the CPU, or with why it cannot be read; in their order.

        Only pictures that the pipeline makes equally large share a batch: none is padded for another's sake, which
        would change what is predicted at its edges.

        Raises:
            InputError: the test pipeline cannot take a picture alone.
        """
        ahead: list[tuple[Given, dict[str, Any] | InputError]] = []
        for given in pictures:
            try:
                ahead.append((given, self._prepare(given)))
            except _Unreadable as error:
                ahead.append((given, InputError(str(error))))
            if len(ahead) >= (AHEAD * batch if batch > 1 else 1):
                yield from self._predict(ahead, batch)
                ahead = []
        yield from self._predict(ahead, batch)

    @torch.inference_mode()
    def _predict(
        self, prepared: Sequence[tuple[Given, dict[str, Any] | InputError]], batch: int
    ) -> list[tuple[Given, BaseDataElement | InputError]]:
        sizes: dict[tuple, list[int]] = {}
        for place, (_, data) in enumerate(prepared):
            if isinstance(data, dict):
                sizes.setdefault(_size(data["inputs"]), []).append(place)
        found: list[BaseDataElement | InputError] = [data for _, data in prepared]
        for places in sizes.values():
            for first in range(0, len(places), batch):
                now = places[first : first + batch]
                try:
                    samples = self.model.test_step(pseudo_collate([found[place] for place in now]))
                except ValueError as error:
                    if "the input must be" not in str(error):  # our backbones', of pictures that are too small
                        raise
                    samples = [InputError(f"{prepared[place][0].name}: {error}") for place in now]
                for place, sample in zip(now, samples, strict=True):
                    found[place] = sample if isinstance(sample, InputError) else sample.cpu()
        return [(given, sample) for (given, _), sample in zip(prepared, found, strict=True)]

    def _prepare(self, given: Given) -> dict[str, Any]:
        results = dict(img_path=given.name, img_id=0, seg_fields=[], instances=[], reduce_zero_label=False)
        try:
            if given.picture is None:
                if not Path(given.name).is_file():
                    raise _Unreadable(f"{given.name}: no such picture")
                return self.pipeline(results)
            return self.after_reading(results | _as_read(given.picture, self.read_by))
        except KeyError as error:
            raise InputError(
                f"{given.name}: the config's test pipeline asks for {error}, which a picture alone has not"
            ) from error
        except InputError as error:  # of our own reader
            raise _Unreadable(str(error)) from error
        except AssertionError as error:  # of mmcv's reader, where OpenCV gives up
            if "failed to load image" not in str(error):
                raise
            raise _Unreadable(f"{given.name}: cannot be decoded as a picture; take it out or replace it") from error


class _Unreadable(Exception):
    """A picture's own fault, not the config's."""


def _device(name: str | None) -> torch.device:
    """The device of that name, which has to be there.

    Raises:
        InputError: it is not.
    """
    try:
        device = torch.device(name or ("cuda:0" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:  # torch raises the second where it is built without CUDA
        raise InputError(f"device {name!r}: not on this machine ({str(error).splitlines()[0]}); take 'cpu'") from error
    return device


def _size(inputs: torch.Tensor | Sequence[torch.Tensor]) -> tuple:
    """Of a picture, or of each of its views."""
    return tuple(inputs.shape) if isinstance(inputs, torch.Tensor) else tuple(tuple(view.shape) for view in inputs)


def _as_read(picture: Picture, step: dict[str, Any]) -> dict[str, Any]:
    """What the reading step of a pipeline would give for a file with that picture: PIL's RGB, or mmcv's BGR."""
    shape = picture.shape[:2]
    if _name(step) == "LoadPicture":
        return dict(img=Image.fromarray(picture), ori_shape=shape, img_shape=shape)
    image = np.ascontiguousarray(picture[..., ::-1])
    if step.get("to_float32"):
        image = image.astype(np.float32)
    return dict(img=image, ori_shape=shape, img_shape=shape)


def _test_dataset(cfg: Config) -> dict[str, Any]:
    loader = cfg.get("test_dataloader") or cfg.get("val_dataloader")
    if loader is None:
        raise InputError("config: it has no test_dataloader, whose pipeline says how pictures are prepared")
    return base_dataset(loader["dataset"])


def _pipeline(dataset: dict[str, Any]) -> list[dict[str, Any]]:
    if not dataset.get("pipeline"):
        raise InputError("config: test_dataloader.dataset has no pipeline, which says how pictures are prepared")
    return list(dataset["pipeline"])


def _name(step: dict[str, Any]) -> str:
    return (step["type"] if isinstance(step["type"], str) else step["type"].__name__).split(".")[-1]


def without_annotations(steps: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pipeline steps without those that read annotations, also within the views of test-time augmentation."""
    kept = []
    for step in steps:
        if "Load" in _name(step) and "Annotation" in _name(step):
            continue
        if _name(step) == "TestTimeAug":
            choices = [without_annotations(choice) for choice in step["transforms"]]
            step = {**step, "transforms": [choice for choice in choices if choice]}
        kept.append(step)
    return kept


def data_of_test(cfg: Config) -> Any:
    """The config's test data without their pictures; None where they are not there."""
    settings = {**_test_dataset(cfg), "pipeline": [], "test_mode": True}
    try:
        with contextlib.redirect_stdout(None):  # pycocotools tells what it reads
            return DATASETS.build(settings)
    except (FileNotFoundError, InputError):
        return None


def ground_truth(cfg: Config, paths: list[Path]) -> dict[Path, Prediction]:
    """What the config's test data say about those of `paths` that are in them; empty where the data are not there."""
    dataset = data_of_test(cfg)
    if dataset is None:
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
