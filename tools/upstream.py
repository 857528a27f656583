"""A packaged config of mmdet or mmseg: with its own backbone or one of ours, a training step and a prediction."""

import gc
import importlib
import time
import traceback
from collections.abc import Callable, Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from bestiary.engine.complexity import without_weights
from bestiary.engine.steps import tracked
from bestiary.errors import InputError
from bestiary.tools import trial
from bestiary.tools.synthetic import asked_of_data, detection_batch, segmentation_batch
from bestiary.tools.upstream_families import MMDET, MMSEG

STRIDES = 4, 8, 16, 32  # of our backbone's four maps
CHANGES = {  # what a small picture asks of a config beside its size
    "mmseg/beit": {"backbone.img_size": (64, 96)},
    "mmseg/mae": {"backbone.img_size": (64, 96)},
    "mmseg/san": {"text_encoder.num_layers": 1},  # of twelve, which read 2,394 sentences
}
OWN_FAILS = {  # families whose own backbone cannot be tried, and why; they are tried with ours
    "mmdet/convnext": "the backbone is mmpretrain's",
    "mmdet/timm_example": "the backbone is mmpretrain's",
    "mmseg/convnext": "the backbone is mmpretrain's",
    "mmseg/poolformer": "the backbone is mmpretrain's",
    "mmseg/vpd": "the backbone is Stable Diffusion's, by the package ldm",
}
PARTS = "the head takes a backbone's parts, not maps of strides 4 to 32"
NOT_PLAIN = {  # families that take no other backbone, and why
    "mmdet/centripetalnet": "the head takes an hourglass's two stacks",
    "mmdet/cornernet": "the head takes an hourglass's two stacks",
    "mmdet/detectors": "the neck hands its maps back to the backbone",
    "mmdet/tridentnet": "the head takes a batch of three branches",
    "mmseg/bisenetv2": PARTS,
    "mmseg/ddrnet": PARTS,
    "mmseg/dpt": "the head takes a transformer's class tokens",
    "mmseg/mobilenet_v3": "the head pools maps of stride 8 by 49 x 49",
    "mmseg/pidnet": PARTS,
    "mmseg/setr": "the head adds four maps of one size",
    "mmseg/unet": "the head takes a decoder's five maps",
    "mmseg/san": "CLIP's own picture and text encoders are the model",
}
MAYBE_EMPTY = "mmdet/centripetalnet", "mmdet/cornernet"  # corners of an untrained network belong to no others


class Case(NamedTuple):
    """A config of a package, the sizes (H, W) of the pictures it is tried with."""

    package: str
    path: str
    sizes: tuple[tuple[int, int], ...]

    @property
    def family(self) -> str:
        """As 'mmdet/fcos'."""
        return f"{self.package}/{self.path.split('/')[0]}"


CASES = [
    *(Case("mmdet", path, sizes) for path, sizes in MMDET.items()),
    *(Case("mmseg", path, (size, size)) for path, size in MMSEG.items()),
]


def chosen_cases(patterns: list[str]) -> list[Case]:
    """The cases of the families that fit one of the patterns, as 'mmdet/fcos', 'mmseg/*'; all of them without any.

    Raises:
        InputError: a pattern that fits none.
    """
    for pattern in patterns:
        if not any(fnmatch(case.family, pattern) for case in CASES):
            raise InputError(
                f"no family fits {pattern!r}; they are folders of packaged configs, as mmdet/fcos, mmseg/*"
            )
    return [case for case in CASES if not patterns or any(fnmatch(case.family, pattern) for pattern in patterns)]


class Outcome(NamedTuple):
    """What became of a case: None for what works, else the error; and the seconds that both took."""

    case: Case
    own: str | None
    ours: str | None
    seconds: float

    def unexpected(self) -> list[str]:
        """Failures that are not among the named ones, and named ones that work."""
        found = []
        for which, failure, named in (("own", self.own, OWN_FAILS), ("ours", self.ours, NOT_PLAIN)):
            if failure and self.case.family not in named:
                found.append(f"{self.case.path}, {which}: {failure}")
            if not failure and self.case.family in named:
                found.append(f"{self.case.path}, {which}: it works, though named as a failure: take it off the list")
        return found


def sweep(cases: list[Case], debug: bool = False) -> int:
    """Try the cases, each with its own backbone and with ours; print the table; 1 if something is not as expected."""
    outcomes = []
    for case in tracked(cases, "try", "configs"):
        outcomes.append(attempt(case, debug))
        gc.collect()  # a model and its gradients refer to each other
    table = Table(
        "family", "config", "own", "ours", "seconds", title="loss, backward and prediction of packaged configs"
    )
    for outcome in outcomes:
        family = outcome.case.family
        own = f"no: {OWN_FAILS.get(family, outcome.own)}" if outcome.own else "ok"
        ours = f"no: {NOT_PLAIN.get(family, outcome.ours)}" if outcome.ours else "ok"
        table.add_row(family, outcome.case.path.split("/")[1], own, ours, f"{outcome.seconds:.1f}")
    Console().print(table)
    for package in sorted({case.package for case in cases}):
        here = [outcome for outcome in outcomes if outcome.case.package == package]
        families = {outcome.case.family for outcome in here}
        own = families - {outcome.case.family for outcome in here if outcome.own}
        ours = families - {outcome.case.family for outcome in here if outcome.ours}
        print(
            f"{package}: {len(own | ours)} of {len(families)} families work, {len(own)} with their own backbone, "
            f"{len(ours)} with ours"
        )
    wrong = [line for outcome in outcomes for line in outcome.unexpected()]
    for line in wrong:
        print(f"not as expected: {line}")
    return int(bool(wrong))


def attempt(case: Case, debug: bool = False) -> Outcome:
    """Both trials of a case."""
    began = time.monotonic()
    model, own = _caught(lambda: try_own(case), debug)
    _, ours = _caught(lambda: try_ours(case, model), debug)
    return Outcome(case, own, ours, time.monotonic() - began)


def _caught(trial: Callable[[], Any], debug: bool) -> tuple[Any, str | None]:
    try:
        return trial(), None
    except Exception as error:  # whatever a model raises is what is looked for
        if debug:
            traceback.print_exc()
        return None, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"


def packaged_configs(package: str) -> Path:
    """The folder of configs in the wheel of 'mmdet' or 'mmseg'."""
    return Path(importlib.import_module(package).__file__).parent / ".mim" / "configs"


def load_packaged(case: Case) -> Config:
    """The config without weights to load, its pictures' size set; nothing that it imports is imported."""
    importlib.import_module(f"{case.package}.utils").register_all_modules(init_default_scope=False)
    cfg = Config.fromfile(packaged_configs(case.package) / case.path, import_custom_modules=False)
    cfg.model = without_weights(cfg.model)
    cfg.model.pop("teacher_ckpt", None)
    changes = dict(CHANGES.get(case.family, {}))
    if case.package == "mmseg":
        changes["data_preprocessor.size"] = case.sizes[0]
        changes["data_preprocessor.size_divisor"] = None
    cfg.merge_from_dict({f"model.{key}": value for key, value in changes.items()})
    return cfg


def try_own(case: Case) -> nn.Module:
    """Build the config's model, train a step, predict; returns the model."""
    return _try(case, load_packaged(case))


def try_ours(case: Case, own: nn.Module | None) -> None:
    """The same with a PoolFormer of a block a stage in place of the backbone, which gives maps of the same channels.

    Args:
        own: the model with its own backbone, which says what maps it gives; None: mmpretrain's, whose maps are ResNet's
            or stand in the config.

    Raises:
        InputError: the maps are not such as a pyramid of strides 4 to 32 has.
    """
    cfg = load_packaged(case)
    channels, stages = maps_of(own, case.sizes[0]) if own is not None else _written(cfg.model)
    dims = [64] * 4
    for stage, width in zip(stages, channels, strict=True):
        dims[stage] = width
    cfg.model.backbone = dict(
        type="bestiary.PoolFormer", arch="s12", depths=(1,) * 4, dims=tuple(dims), mlp_ratio=1.0, out_indices=stages
    )
    _try(case, cfg)


def maps_of(model: nn.Module, size: tuple[int, int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Channels of the maps that a model's backbone gives, and which of our four stages stand in for them.

    A map's stage is that of its stride; where two of one stride follow each other (dilated backbones, transformers of
    one stride), the stages up to the last are taken.
    """
    side = [-(-length // 32) * 32 for length in size]
    model.eval()  # a backbone's own `eval` returns nothing
    with torch.no_grad():
        maps = model.backbone(torch.zeros(2, 3, *side))
    if not (isinstance(maps, tuple | list) and 1 <= len(maps) <= 4 and all(isinstance(m, Tensor) for m in maps)):
        raise InputError("the backbone gives no list of one to four maps")
    strides = [side[0] // one.shape[2] for one in maps]
    stages = tuple(STRIDES.index(stride) for stride in strides if stride in STRIDES)
    if len(stages) != len(maps) or len(set(stages)) != len(stages):
        stages = tuple(range(4 - len(maps), 4))
    return tuple(one.shape[1] for one in maps), stages


def _written(model: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    channels = (model.get("neck") or model.get("decode_head") or {}).get("in_channels")
    if not isinstance(channels, list | tuple) or len(channels) != 4:
        raise InputError("its own backbone fails, and the config does not say what four maps that gives")
    return tuple(channels), tuple(range(4))


def _try(case: Case, cfg: Config) -> nn.Module:
    torch.manual_seed(0)
    np.random.seed(0)
    model = trial.build(cfg, case.package)
    model.data_preprocessor.batch_augments = None  # they scale and pad to the sizes of real pictures
    settle(model, _batch(case, cfg, model, case.sizes))
    training_step(model, _batch(case, cfg, model, case.sizes))
    result = trial.predict(model, _batch(case, cfg, model, case.sizes[:1]))
    for problem in problems(result, case.sizes[0], empty=case.family in MAYBE_EMPTY):
        raise InputError(f"prediction: {problem}")
    return model


def _batch(case: Case, cfg: Config, model: nn.Module, sizes: tuple[tuple[int, int], ...]) -> dict[str, list]:
    if case.package == "mmdet":
        return detection_batch(sizes, asked_of_data(cfg.train_dataloader))
    # mmseg's cross-entropy looks the ignored label up among class weights, where it is not.
    ignored = 0.0 if "class_weight" in repr(cfg.model) else 0.1
    batch = segmentation_batch(sizes[0], getattr(model, "num_classes", None) or 2, len(sizes), ignored=ignored)
    for sample in batch["data_samples"]:
        labels = sample.gt_sem_seg.data
        sample.gt_edge_map = PixelData(data=(labels != labels.roll(1, -1)).long())  # PIDNet's
        sample.gt_depth_map = PixelData(data=labels.float() + 1)  # VPD's
    return batch


def settle(model: nn.Module, batch: dict[str, list]) -> None:
    """Give batch norms the statistics of this batch, as pretrained ones have those of their pictures.

    Many configs keep them fixed (`norm_eval`). With a mean of 0 and a variance of 1, as they are made, DetectoRS's maps
    grow from stage to stage until no proposal is a number; other models would predict from no statistics.
    """
    model.train()
    layers = [layer for layer in model.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    modes = [layer.training for layer in layers]
    for layer in layers:
        layer.train()
        layer.momentum = 1.0  # of a training step, too
        layer.eps = layer.eps or 1e-5  # 0 in NAS-FCOS, which torch refuses in training
    if not all(modes):
        with torch.no_grad():
            model.extract_feat(model.data_preprocessor(batch, training=True)["inputs"])
    for layer, mode in zip(layers, modes, strict=True):
        layer.train(mode)


def training_step(model: nn.Module, batch: dict[str, list]) -> None:
    """Loss and backward.

    Raises:
        InputError: a loss or gradient is not finite; none reaches the backbone, or what comes after it.
    """
    trial.backward(model, batch)
    reached = {True: 0.0, False: 0.0}
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            reached["backbone" in name or "image_encoder" in name] += parameter.grad.abs().sum().item()
    if not (reached[True] > 0 and reached[False] > 0):
        raise InputError(f"gradients in the backbone sum to {reached[True]:.3g}, elsewhere to {reached[False]:.3g}")


def problems(sample: Any, size: tuple[int, int], empty: bool = False) -> Iterator[str]:
    """What is wrong with a prediction for a picture of `size` (H, W); no boxes are, unless `empty`."""
    if "pred_panoptic_seg" in sample:
        if sample.pred_panoptic_seg.sem_seg.shape != (1, *size):
            yield f"segments of shape {tuple(sample.pred_panoptic_seg.sem_seg.shape)}"
    elif "pred_instances" in sample:
        found = sample.pred_instances
        if not len(found) and not empty:
            yield "no boxes"
        if found.bboxes.shape != (len(found), 4) or not torch.isfinite(found.bboxes).all():
            yield f"boxes of shape {tuple(found.bboxes.shape)}, or not finite"
        if found.scores.shape != (len(found),) or not torch.isfinite(found.scores).all():
            yield f"scores of shape {tuple(found.scores.shape)}, or not finite"
        if (found.labels < 0).any() or (found.labels != found.labels.round()).any():  # CrowdDet's are floats
            yield "labels that are no whole numbers, or below 0"
        if "masks" in found and (found.masks.shape != (len(found), *size) or found.masks.dtype != torch.bool):
            yield f"masks of shape {tuple(found.masks.shape)}, {found.masks.dtype}"
    elif "pred_depth_map" in sample:
        if sample.pred_depth_map.data.shape[-2:] != size or not torch.isfinite(sample.pred_depth_map.data).all():
            yield f"depths of shape {tuple(sample.pred_depth_map.data.shape)}, or not finite"
    else:
        labels, logits = sample.pred_sem_seg.data, sample.seg_logits.data
        if labels.shape != (1, *size) or logits.shape[1:] != size or not torch.isfinite(logits).all():
            yield f"labels of shape {tuple(labels.shape)}, logits of {tuple(logits.shape)}, or not finite"
        elif len(logits) > 1 and not torch.equal(labels, logits.argmax(dim=0, keepdim=True)):
            yield "labels are not the best logits"
