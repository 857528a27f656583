"""Schedules of configs against closed forms, over whole runs: by epochs, by iterations, and the one converted."""

import math
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import PARAM_SCHEDULERS

from bestiary.engine.configs import SHIPPED

BASES = SHIPPED / "_base_" / "schedules"


def rates(schedulers, base, iterations, epoch_length):
    """The rate in each iteration, as mmengine's hook steps the schedules: behind each iteration and each epoch."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=base)
    built = []
    for cfg in schedulers:
        # What Runner.build_param_scheduler does with a dict.
        cfg = dict(cfg)
        convert = cfg.pop("convert_to_iter_based", False)
        scheduler_type = cfg.pop("type")
        cls = PARAM_SCHEDULERS.get(scheduler_type)
        if convert:
            built.append(cls.build_iter_from_epoch(optimizer, **cfg, epoch_length=epoch_length))
        else:
            built.append(cls(optimizer, **cfg))
    seen = []
    for iteration in range(1, iterations + 1):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        for scheduler in built:
            if not scheduler.by_epoch or iteration % epoch_length == 0:
                scheduler.step()
    return seen


def warm(t, length, start):
    """From `start` to 1 in the last of `length` steps."""
    return start + (1 - start) * min(t, length - 1) / (length - 1)


def cosine(t, length, base, least):
    return least + (base - least) * (1 + math.cos(math.pi * t / length)) / 2


def poly(t, length, base, power, least):
    """`least` in the last of `length` steps."""
    return least + (base - least) * (1 - t / (length - 1)) ** power


def steps(t, milestones, gamma):
    return gamma ** sum(t >= milestone for milestone in milestones)


def one_cycle(t, length, top, share, first, last):
    """Up from top / first along a cosine, down to top / first / last."""
    up = share * length - 1
    if t <= up:
        return cosine(up - t, up, top, top / first)
    return cosine(t - up, length - 1 - up, top, top / first / last)


def close(seen, expected):
    assert len(seen) == len(expected)
    for number, (one, other) in enumerate(zip(seen, expected, strict=True)):
        assert math.isclose(one, other, rel_tol=1e-6, abs_tol=1e-9), (number, one, other)


EPOCHS, LENGTH = 10, 7
N = EPOCHS * LENGTH


@pytest.mark.parametrize("way", ["epochs", "iterations", "converted"])
@pytest.mark.parametrize("kind", ["cosine", "step", "poly", "onecycle"])
def test_kinds(kind, way):
    """Warm-up of 2 epochs where the kind has none of its own, 10 epochs of 7 iterations."""
    unit = 1 if way != "iterations" else LENGTH  # epochs of which the config speaks, or iterations
    begin, end = 2 * unit, EPOCHS * unit
    by_epoch = way != "iterations"
    settings = dict(
        cosine=dict(type="CosineAnnealingLR", eta_min=0.01, begin=begin, end=end),
        step=dict(type="MultiStepLR", milestones=[6 * unit, 8 * unit], gamma=0.2, begin=0, end=end),
        poly=dict(type="PolyLR", power=0.9, eta_min=0.01, begin=begin, end=end),
        onecycle=dict(type="OneCycleLR", eta_max=0.5, pct_start=0.3, begin=0, end=end),
    )[kind]
    schedulers = [settings | dict(by_epoch=by_epoch)]
    if kind != "onecycle":
        schedulers.insert(0, dict(type="LinearLR", start_factor=0.1, begin=0, end=begin, by_epoch=by_epoch))
    if way == "converted":
        schedulers = [one | dict(convert_to_iter_based=True) for one in schedulers]

    def at(t, total, first, milestones):
        if kind == "onecycle":
            return one_cycle(t, total, 0.5, 0.3, 25.0, 1e4)
        factor = warm(t, first, 0.1)
        if kind == "step":
            return 0.5 * factor * steps(t, milestones, 0.2)
        if t < first:
            return 0.5 * factor
        if kind == "cosine":
            return cosine(t - first, total - first, 0.5, 0.01)
        return poly(t - first, total - first, 0.5, 0.9, 0.01)

    if way == "epochs":  # one rate an epoch
        expected = [at(i // LENGTH, EPOCHS, 2, (6, 8)) for i in range(N)]
    else:
        expected = [at(i, N, 2 * LENGTH, (6 * LENGTH, 8 * LENGTH)) for i in range(N)]
    close(rates(schedulers, 0.5, N, LENGTH), expected)


def shipped(name, epoch_length=None, iterations=None):
    cfg = Config.fromfile(BASES / f"{name}.py")
    total = iterations or cfg.train_cfg.max_epochs * epoch_length
    return rates(cfg.param_scheduler, cfg.optim_wrapper.optimizer.lr, total, epoch_length or total), total


def test_shipped_cosine_with_a_warm_up_in_epochs():
    length = 4
    seen, total = shipped("imagenet_300e_warmup5", length)
    first = 5 * length
    close(
        seen,
        [
            1e-3 * warm(t, first, 1e-3) if t < first else cosine(t - first, total - first, 1e-3, 1e-5)
            for t in range(total)
        ],
    )


def test_shipped_steps_with_a_warm_up_in_iterations():
    length = 200
    seen, total = shipped("coco_1x", length)
    close(seen, [1e-4 * warm(t, 500, 1e-3) * steps(t // length, (8, 11), 0.1) for t in range(total)])


@pytest.mark.slow
def test_shipped_line_by_iterations():
    seen, total = shipped("ade20k_160k", iterations=160_000)
    expected = [
        6e-5 * warm(t, 1500, 1e-6) if t < 1500 else poly(t - 1500, total - 1500, 6e-5, 1.0, 0.0) for t in range(total)
    ]
    close(seen, expected)
    assert seen[-1] == pytest.approx(0, abs=1e-9) and max(seen) == pytest.approx(6e-5)


def test_shipped_cycle():
    seen, total = shipped("imagenet_onecycle_30e", 20)
    close(seen, [one_cycle(t, total, 1.0, 0.3, 25.0, 1e4) for t in range(total)])
    assert max(seen) == pytest.approx(1.0, rel=1e-3)


def test_a_kind_each_is_shipped():
    text = "".join(path.read_text() for path in Path(BASES).glob("*.py"))
    for kind in ("CosineAnnealingLR", "MultiStepLR", "PolyLR", "OneCycleLR", "LinearLR"):
        assert f'type="{kind}"' in text
