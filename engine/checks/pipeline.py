"""Dataloaders and pipelines: sizes that cannot be, steps that a model misses, pictures that come in another range."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mmengine.config import Config

from ...inputs.checks import data_sets

SPLITS = ("train", "val", "test")


def check_pipelines(cfg: Config) -> list[str]:
    """Mistakes in dataloaders, pipelines and `data_preprocessor`, each in a line that names the key."""
    found = [*_preprocessor(cfg)]
    for split in SPLITS:
        loader = cfg.get(f"{split}_dataloader")
        if isinstance(loader, Mapping):
            found += [*_loader(cfg, loader, f"{split}_dataloader"), *_pipelines(cfg, loader, split)]
    seen: dict[str, None] = dict.fromkeys(found)
    return list(seen)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _loader(cfg: Config, loader: Mapping, key: str) -> Iterator[str]:
    size, workers = loader.get("batch_size", 1), loader.get("num_workers", 0)
    if loader.get("dataset") is None:
        yield f"{key}.dataset: missing; set {key}.dataset"
    if _number(size) and (size < 1 or size != int(size)):
        yield f"{key}.batch_size: {size}; set it to a whole number from 1 on"
    if _number(workers) and (workers < 0 or workers != int(workers)):
        yield f"{key}.num_workers: {workers}; set it to 0 (no workers) or more"
    if workers == 0 and loader.get("persistent_workers"):
        yield f"{key}.persistent_workers: True with num_workers=0; set {key}.persistent_workers=False"
    if workers == 0 and loader.get("prefetch_factor") is not None:
        yield f"{key}.prefetch_factor: given with num_workers=0; take it out, or set {key}.num_workers"
    sampler = loader.get("sampler") or {}
    endless = str(sampler.get("type")).split(".")[-1] == "InfiniteSampler"
    by_epoch = "max_epochs" in (cfg.get("train_cfg") or {})
    if endless and (by_epoch or not key.startswith("train")):
        what = "the first epoch" if by_epoch else "the first evaluation"
        yield f"{key}.sampler.type: with InfiniteSampler {what} has no end; set {key}.sampler.type='DefaultSampler'"


def _name(step: Any) -> str:
    return str(step.get("type")).split(".")[-1] if isinstance(step, Mapping) else type(step).__name__


def _steps(pipeline: Any) -> Iterator[Mapping]:
    """Steps, and those inside of steps."""
    for step in pipeline if isinstance(pipeline, Sequence) and not isinstance(pipeline, str) else ():
        if isinstance(step, Mapping):
            yield step
            yield from _steps(step.get("transforms"))
        else:
            yield from _steps(step)


def _pipelines(cfg: Config, loader: Mapping, split: str) -> Iterator[str]:
    if not isinstance(loader.get("dataset"), Mapping):
        return
    model = cfg.get("model") or {}
    outer = list(_steps(loader["dataset"].get("pipeline")))
    for data in data_sets(loader["dataset"], f"{split}_dataloader.dataset", cfg):
        home = data.cls.__module__
        if not home.startswith(("mmdet.", "mmseg.", "bestiary.")) or "pipeline" not in data.config:
            continue
        pipeline = data.config["pipeline"]
        steps = [*_steps(pipeline), *outer]
        names = [_name(step) for step in steps]
        key = f"{data.key}.pipeline"
        if not names:
            continue
        if not any("Pack" in name or "Format" in name or "Branch" in name for name in names):
            pack = "PackSegInputs" if home.startswith("mmseg.") else "PackDetInputs"
            pack = "PackImageInputs" if home.startswith("bestiary.") else pack
            yield f"{key}: no step packs the results for the model; end it with dict(type='{pack}')"
        if split != "train" or home.startswith("bestiary."):
            continue
        loads = [step for step in steps if "Annotations" in _name(step) or _name(step).startswith("Load")]
        if not any("Annotations" in _name(step) for step in steps) and len(loads) <= 1:
            yield f"{key}: loads no annotations, and a training needs them; add dict(type='LoadAnnotations', ...)"
        elif (head := _mask_head(model)) and not _with(steps, "with_mask", "Panoptic", "InstanceAnn"):
            yield f"{key}: loads no masks, and {head} needs them; set with_mask=True in its LoadAnnotations"


def _with(steps: list[Mapping], option: str, *kinds: str) -> bool:
    return any(step.get(option) or any(kind in _name(step) for kind in kinds) for step in steps)


def _mask_head(model: Mapping) -> str | None:
    """The entry of a head that learns masks of objects from the data's."""
    roi = model.get("roi_head")
    if isinstance(roi, Mapping) and isinstance(roi.get("mask_head"), Mapping | list):
        return "model.roi_head.mask_head"
    return None


def _preprocessor(cfg: Config) -> Iterator[str]:
    model = cfg.get("model")
    config = model.get("data_preprocessor") if isinstance(model, Mapping) else None
    config = config if isinstance(config, Mapping) else cfg.get("data_preprocessor")
    if not isinstance(config, Mapping):
        return
    mean, std = config.get("mean"), config.get("std")
    key = "model.data_preprocessor"
    if (mean is None) != (std is None):
        yield f"{key}: has {'std' if mean is None else 'mean'} alone; give mean and std, or neither"
        return
    if not _numbers(mean) or not _numbers(std):
        return
    if len(mean) not in (1, 3) and len(mean) != len(std) or len(std) not in (1, 3) and len(mean) != len(std):
        yield f"{key}: mean has {len(mean)} and std {len(std)} numbers; give one a channel"
    if any(value <= 0 for value in std):
        yield f"{key}.std: {list(std)}; every number must be more than 0"
    elif max(abs(value) for value in mean) <= 1 and max(std) < 1:
        yield (
            f"{key}.mean: {list(mean)} and std {list(std)} are for pictures in 0..1, and these come in 0..255: "
            "multiply both by 255"
        )


def _numbers(values: Any) -> bool:
    return isinstance(values, list | tuple) and len(values) > 0 and all(_number(value) for value in values)
