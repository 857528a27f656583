"""Lengths, rates and hooks of a training that do not go together: it would end without a score, or learn nothing."""

from collections.abc import Iterator, Mapping
from typing import Any

from mmengine import registry as root
from mmengine.config import Config

from .keys import near, registered

BEYOND = "beyond the training's"
_COCO_ITEMS = ("mAP", "mAP_50", "mAP_75", "mAP_s", "mAP_m", "mAP_l")
_AREAS = {"mIoU": ("aAcc", "mIoU", "mAcc"), "mDice": ("aAcc", "mDice", "mAcc")} | {
    "mFscore": ("aAcc", "mFscore", "mPrecision", "mRecall")
}


def check_schedule(cfg: Config, shortened: bool = False) -> list[str]:
    """Mistakes in loops, schedules, hooks and optimizer of a config, each in a line that names the key.

    Args:
        cfg: the config.
        shortened: the length was set for a trial, by the command line: what lies beyond it is no mistake.
    """
    found = [*_lengths(cfg), *_schedulers(cfg), *_optimizer(cfg), *_checkpoints(cfg), *_watched(cfg)]
    return [mistake for mistake in found if not (shortened and BEYOND in mistake)]


def length_of(cfg: Mapping) -> tuple[int | None, bool]:
    """Epochs or iterations of the training, and whether these are epochs; None if the config does not say."""
    loop = cfg.get("train_cfg") or {}
    if isinstance(loop.get("max_epochs"), int):
        return loop["max_epochs"], True
    if isinstance(loop.get("max_iters"), int):
        return loop["max_iters"], False
    return None, "Iter" not in str(loop.get("type"))


def _lengths(cfg: Config) -> Iterator[str]:
    loop = cfg.get("train_cfg")
    if not isinstance(loop, Mapping):
        return
    length, by_epoch = length_of(cfg)
    name = "max_epochs" if by_epoch else "max_iters"
    if length is None:
        yield "train_cfg: says neither max_epochs nor max_iters; set train_cfg.max_epochs"
        return
    if length < 1:
        yield f"train_cfg.{name}: {length}; nothing would be trained: set it to 1 or more"
    parts = [f"val_{part}" for part in ("dataloader", "cfg", "evaluator")]
    there = [part for part in parts if cfg.get(part) is not None]
    if there and there != parts:
        lacking = [part for part in parts if part not in there]
        yield f"{', '.join(lacking)}: missing, and {', '.join(there)} is there: set all three, or each to None"
    every = loop.get("val_interval", 1)
    if isinstance(every, int) and there == parts and length >= 1:
        if every < 1:
            yield f"train_cfg.val_interval: {every}; set it to 1 or more"
        elif every > length + 1:  # one more than the last is how configs say: never
            yield (
                f"train_cfg.val_interval: {every} is {BEYOND} {name}={length}: it would never be evaluated; "
                f"set train_cfg.val_interval={length} or less"
            )
    begin = loop.get("val_begin", 1)
    if isinstance(begin, int) and there == parts and begin > length + 1 > 1:
        yield f"train_cfg.val_begin: {begin} is {BEYOND} {name}={length}: set it to {length} or less"


def _schedulers(cfg: Config) -> Iterator[str]:
    steps = cfg.get("param_scheduler")
    length, epochs = length_of(cfg)
    for index, step in enumerate(steps if isinstance(steps, list | tuple) else [steps]):
        if not isinstance(step, Mapping) or "type" not in step or length is None:
            continue
        key = f"param_scheduler.{index}" if isinstance(steps, list | tuple) else "param_scheduler"
        by_epoch = step.get("by_epoch", True)
        if by_epoch and not epochs:
            yield (
                f"{key}.by_epoch: {str(step['type'])} counts epochs, and the training counts iterations "
                f"(train_cfg.max_iters): it would never act; set {key}.by_epoch=False"
            )
            continue
        unit = "epochs" if by_epoch else "iterations"
        limit = length if by_epoch == epochs else None  # iterations of an epoch: the data would have to be counted
        begin, end = step.get("begin", 0), step.get("end")
        if isinstance(begin, int) and isinstance(end, int) and end <= begin:
            yield f"{key}: ends at {end} and begins at {begin}: set {key}.end to more than {key}.begin"
        if limit is None or limit < 1:
            continue
        if isinstance(begin, int) and begin >= limit:
            yield f"{key}.begin: {begin} is {BEYOND} {limit} {unit}: it would never act; set {key}.begin"
        elif isinstance(end, int) and end > limit:
            yield f"{key}.end: {end} is {BEYOND} {limit} {unit}; set {key}.end={limit}"
        for name in ("T_max", "total_iters"):
            if isinstance(step.get(name), int) and step[name] > limit and "end" not in step:
                yield f"{key}.{name}: {step[name]} is {BEYOND} {limit} {unit}; set {key}.{name}={limit}"
        late = [at for at in step.get("milestones") or () if isinstance(at, int) and at >= limit]
        if late:
            yield (
                f"{key}.milestones: {late} lie {BEYOND} {limit} {unit}: they would never be reached; "
                f"set {key}.milestones to numbers below {limit}"
            )


def _optimizer(cfg: Config) -> Iterator[str]:
    wrapper = cfg.get("optim_wrapper")
    optimizer = wrapper.get("optimizer") if isinstance(wrapper, Mapping) else None
    if isinstance(wrapper, Mapping) and optimizer is None and "type" in wrapper and "constructor" not in wrapper:
        yield "optim_wrapper.optimizer: missing; set optim_wrapper.optimizer=dict(type='AdamW', lr=...)"
    if not isinstance(optimizer, Mapping):
        return
    rate = optimizer.get("lr")
    if isinstance(rate, int | float) and not 0 < rate:
        yield f"optim_wrapper.optimizer.lr: {rate}; nothing would be learnt: set it to more than 0"
    decay = optimizer.get("weight_decay")
    if isinstance(decay, int | float) and decay < 0:
        yield f"optim_wrapper.optimizer.weight_decay: {decay}; set it to 0 or more"
    counts = wrapper.get("accumulative_counts", 1)
    if isinstance(counts, int) and counts < 1:
        yield f"optim_wrapper.accumulative_counts: {counts}; set it to 1 or more"


def _hooks(cfg: Config) -> Iterator[tuple[str, Mapping]]:
    hooks = cfg.get("default_hooks") or {}
    pairs = [(f"default_hooks.{name}", hook) for name, hook in hooks.items()]
    pairs += [(f"custom_hooks.{i}", hook) for i, hook in enumerate(cfg.get("custom_hooks") or ())]
    yield from ((key, hook) for key, hook in pairs if isinstance(hook, Mapping))


def _kind(hook: Mapping) -> str:
    return str(hook.get("type")).split(".")[-1]


def _checkpoints(cfg: Config) -> Iterator[str]:
    _, by_epoch = length_of(cfg)
    for key, hook in _hooks(cfg):
        if _kind(hook) == "CheckpointHook" and not by_epoch and hook.get("by_epoch", True):
            yield (
                f"{key}.by_epoch: the hook counts epochs, and the training counts iterations (train_cfg.max_iters): no "
                f"checkpoint would be written; set {key}.by_epoch=False"
            )
        if _kind(hook) == "CheckpointHook" and hook.get("interval") == 0:
            yield f"{key}.interval: 0; set it to 1 or more, or to -1 to save the last alone"


def _watched(cfg: Config) -> Iterator[str]:
    """`save_best` and `monitor` name a score that the evaluation gives."""
    scores = scores_of(cfg)
    for key, hook in _hooks(cfg):
        name = dict(CheckpointHook="save_best", EarlyStoppingHook="monitor").get(_kind(hook), "")
        wanted = hook.get(name)
        for score in wanted if isinstance(wanted, list | tuple) else [wanted]:
            if not isinstance(score, str):
                continue
            if cfg.get("val_evaluator") is None:
                yield f"{key}.{name}: {score!r}, and there is no val_evaluator that gives scores: set val_evaluator"
            elif scores is not None and score != "auto" and score not in scores:
                takes = near(score, scores) or f"; they give {', '.join(sorted(scores))}"
                yield f"{key}.{name}: {score!r} is no score of the val_evaluator{takes}"


def scores_of(cfg: Config) -> set[str] | None:
    """Names of the scores that the `val_evaluator` gives; None if one of its metrics is not known to this check."""
    evaluator = cfg.get("val_evaluator")
    found: set[str] = set()
    for metric in evaluator if isinstance(evaluator, list | tuple) else [evaluator]:
        names = _scores(metric, cfg.get("default_scope") or "mmengine") if isinstance(metric, Mapping) else None
        if names is None:
            return None
        found |= names
    return found


def _scores(metric: Mapping, scope: str) -> set[str] | None:
    kind = _kind(metric)
    cls = registered(root.METRICS, str(metric.get("type")), scope)
    prefix = metric.get("prefix") or getattr(cls, "default_prefix", None)
    if kind == "CocoMetric" and not any(metric.get(name) for name in ("classwise", "metric_items")):
        metrics = _listed(metric.get("metric", "bbox"))
        names = [f"{one}_{item}" for one in metrics for item in _COCO_ITEMS]
        if any(one not in ("bbox", "segm") for one in metrics):
            return None
    elif kind in ("IoUMetric", "StreamingIoU") and "boundary" not in repr(metric):
        names = [name for one in _listed(metric.get("iou_metrics", ["mIoU"])) for name in _AREAS.get(one, ())]
    elif kind == "TopkAccuracy":
        names = [f"top{k}" for k in _listed(metric.get("topk", (1, 5)))]
    else:
        return None
    return {f"{prefix}/{name}" if prefix else name for name in names}


def _listed(value: Any) -> list:
    return list(value) if isinstance(value, list | tuple) else [value]
